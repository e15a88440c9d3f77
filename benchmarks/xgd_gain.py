"""What each method brings: the same student, budget and data, paired seeds, official metrics.

    python -m benchmarks.xgd_gain --out OUT              # everything; continues where it stopped
    python -m benchmarks.xgd_gain --out OUT --arms none,xgd --seeds 0,1

Makes the world of configs/gain_world.toml, trains and dumps the teacher of
configs/gain_teacher.toml once, then trains configs/gain_student.toml for every arm and seed,
``--jobs`` at a time on one thread each, and prints mean, spread and the paired difference to
``none``. A class that is hardly found counts with the largest errors in NDS and in the mean TP
errors, which then jump with a handful of boxes; so the errors of the classes that every run finds
are printed too.
"""

import json
import math
import multiprocessing
import statistics
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from commands import steps
from commands.progress import console
from commands.tables import METRICS
from commands.world import make_world
from frames.world.config import WorldConfig
from runs.checkpoint import load_checkpoint
from runs.config import load_config
from runs.metrics import last_values, mean_values
from store.reader import open_cache
from student_train.config import StudentRun
from student_train.train import train_student
from teacher_dump.config import TeacherRun
from teacher_dump.teachers import own_teacher
from teacher_dump.train import train_teacher

ARMS = "none,imitation,xgd,xgd+imitation"
VAL_SPLIT = "world_val"
# Official AP from which on a class counts as found.
FOUND = 0.02
TP_ERRORS = {"ATE": "trans_err", "ASE": "scale_err", "AOE": "orient_err", "AVE": "vel_err"}
Result = dict[str, Any]
Run = tuple[str, int]  # arm, seed


def main(
    out: Annotated[Path, typer.Option(help="Folder for world, cache and runs.")],
    arms: Annotated[str, typer.Option(help="Methods, comma-separated.")] = ARMS,
    seeds: Annotated[str, typer.Option(help="Seeds, comma-separated.")] = "0,1,2",
    jobs: Annotated[int, typer.Option(help="Runs at a time, one thread each.")] = 2,
    configs: Annotated[Path, typer.Option(help="Folder of the gain_*.toml.")] = Path("configs"),
) -> None:
    """Run what is missing, then print the table."""
    root = out / "world"
    make_world(load_config(configs / "gain_world.toml", WorldConfig), root, workers=jobs)
    student = load_config(configs / "gain_student.toml", StudentRun, data__root=root)
    names = arms.split(",")
    store, teacher = _prepare(configs, out, student)
    results = {("teacher", 0): teacher}
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        waiting = {
            pool.submit(_train_and_score, student, name, seed, store, out): (name, seed)
            for seed in map(int, seeds.split(","))
            for name in names
        }
        for done in as_completed(waiting):
            results[waiting[done]] = done.result()
            console.print(waiting[done], done.result()["scores"]["mean_ap"])
    for table in tables(results, names):
        console.print(table)


def _prepare(configs: Path, out: Path, student: StudentRun) -> tuple[Path, Result]:
    """Teacher and cache; the teacher's own scores."""
    run = load_config(configs / "gain_teacher.toml", TeacherRun, data__root=student.data.root)
    path = train_teacher(run, out / "teacher", resume=True, device="cpu")
    checkpoint, device = load_checkpoint(path, "teacher"), torch.device("cpu")
    store = out / "store"
    every = student.model_copy(update={"method": "xgd+imitation"})
    steps.ensure_cache(own_teacher(checkpoint, device), every, store)
    record = out / "teacher" / "result.json"
    if not record.is_file():
        data = run.data.model_copy(update={"split": VAL_SPLIT})
        detector = steps.load_detector(checkpoint, device)
        found = steps.evaluate(detector, data, out / "teacher" / "eval", pictures=2)
        record.write_text(json.dumps({"scores": asdict(found.nuscenes), "figures": {}}))
    result: Result = json.loads(record.read_text())
    return store, result


def _train_and_score(run: StudentRun, arm: str, seed: int, store: Path, out: Path) -> Result:
    """One run in its own process; a finished one is read back."""
    folder = out / f"{arm}-{seed}"
    record = folder / "result.json"
    if not record.is_file():
        fit = run.fit.model_copy(update={"seed": seed, "threads": 1})
        run = run.model_copy(update={"method": arm, "fit": fit})
        cache = open_cache(store) if run.method_configs else None
        path = train_student(run, cache, folder, resume=True, device="cpu")
        detector = steps.load_detector(load_checkpoint(path), torch.device("cpu"))
        data = run.data.model_copy(update={"split": VAL_SPLIT})
        scores = steps.evaluate(detector, data, folder / "eval", pictures=0).nuscenes
        figures = last_values(folder) | mean_values(folder, ("share/", "xgd/kept/"))
        record.write_text(json.dumps({"scores": asdict(scores), "figures": figures}, indent=1))
    result: Result = json.loads(record.read_text())
    return result


def tables(results: dict[Run, Result], arms: list[str]) -> list[Table]:
    """Mean ± standard deviation over seeds and paired differences, all classes and each alone."""
    return [
        table
        for title, figures in _figures(results).items()
        for table in (_spread_table(title, figures, arms), _gain_table(title, figures, arms))
    ]


def _figures(results: dict[Run, Result]) -> dict[str, dict[Run, dict[str, float]]]:
    """What the tables show: title -> run -> column -> value."""
    scores = {run: result["scores"] for run, result in results.items()}
    found = [
        name
        for name in next(iter(scores.values()))["class_ap"]
        if all(row["class_ap"][name] >= FOUND for row in scores.values())
    ]
    official = {
        run: {name: row[key] for name, key in METRICS.items()} for run, row in scores.items()
    }
    each = {
        name: {
            run: {"AP": row["class_ap"][name]}
            | {
                column: row["class_errors"][name][key]
                for column, key in TP_ERRORS.items()
                # The evaluator has no velocity for barriers, no heading for cones.
                if not math.isnan(row["class_errors"][name][key])
            }
            for run, row in scores.items()
        }
        for name in found
    }
    return {"official metrics": official} | each


def _spread_table(title: str, figures: dict[Run, dict[str, float]], arms: list[str]) -> Table:
    columns = list(next(iter(figures.values())))
    table = Table("arm", *columns, title=f"{title}: mean ± standard deviation over seeds")
    for arm in ("teacher", *arms):
        runs = [row for (name, _), row in figures.items() if name == arm]
        table.add_row(arm, *(_spread([row[column] for row in runs]) for column in columns))
    return table


def _gain_table(title: str, figures: dict[Run, dict[str, float]], arms: list[str]) -> Table:
    columns = list(next(iter(figures.values())))
    table = Table("arm", *columns, title=f"{title}: paired difference to none, mean (each seed)")
    for arm in arms:
        pairs = [
            (row, figures["none", seed])
            for (name, seed), row in sorted(figures.items())
            if name == arm != "none" and ("none", seed) in figures
        ]
        if pairs:
            table.add_row(
                arm, *(_gain([ours[c] - theirs[c] for ours, theirs in pairs]) for c in columns)
            )
    return table


def _spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} ± {deviation:.4f}"


def _gain(values: list[float]) -> str:
    each = " ".join(f"{value:+.3f}" for value in values)
    return f"{statistics.mean(values):+.4f}\n({each})"


if __name__ == "__main__":
    typer.run(main)
