"""What each method brings: the same student, budget and data, paired seeds, official metrics.

    python -m benchmarks.gains --out OUT               # nuScenes; continues where it stopped
    python -m benchmarks.gains --part kitti --out OUT --seeds 0,1 --arms none,xgd

Makes the part's world, trains and dumps its teacher once, then trains its student for every arm
and seed, ``--jobs`` at a time on one thread each, and prints mean, spread and the paired difference
to ``none``. An arm is a method, or a method with other settings (``ARMS``).

In nuScenes a class that is hardly found counts with the largest errors in NDS and in the mean TP
errors, which then jump with a handful of boxes; so the errors of the classes that every run finds
are printed too.
"""

import json
import math
import multiprocessing
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from commands import steps
from commands.progress import console
from commands.tables import METRICS, plain_scores
from commands.world import load_world, make_world
from runs.checkpoint import load_checkpoint
from runs.config import load_config
from runs.metrics import last_values, mean_values
from store.reader import open_cache
from student_train.config import StudentRun
from student_train.registry import parse_methods
from student_train.train import train_student
from teacher_dump.config import TeacherRun
from teacher_dump.teachers import own_teacher
from teacher_dump.train import train_teacher

VAL_SPLIT = "world_val"
# Official AP from which on a class counts as found.
FOUND = 0.02
TP_ERRORS = {"ATE": "trans_err", "ASE": "scale_err", "AOE": "orient_err", "AVE": "vel_err"}
Result = dict[str, Any]
Run = tuple[str, int]  # arm, seed
Figures = dict[str, dict[Run, dict[str, float]]]  # title -> run -> column -> value


@dataclass(frozen=True, slots=True)
class Arm:
    """A method, and what of its config is not as the student's TOML has it."""

    method: str
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def of(self, run: StudentRun) -> StudentRun:
        """The run of this arm."""
        document = run.model_dump(mode="json")
        for name, values in self.settings.items():
            document["methods"][name] |= values
        return StudentRun.model_validate(document | {"method": self.method})


# The filter that StereoDistill argues against: a whole box is good enough, or it is not used.
WHOLE_BOX = {"gate": "none", "min_iou": (0.7, 0.5, 0.5), "min_score": 0.3}
# CLD's term held at a share of the detection loss's gradient: that of XGD's at its own weight.
BALANCED = {"logit": {"weight": 1.0, "share": 0.15}}
ARMS = {
    "cld_share": Arm("cld", {"cld": BALANCED}),
    "stereodistill_share": Arm("stereodistill", {"cld": BALANCED}),
    "whole_box": Arm("xgd", {"xgd": WHOLE_BOX}),
    "no_gate": Arm("xgd", {"xgd": {"gate": "none"}}),
    "closer": Arm("xgd", {"xgd": {"gate": "closer"}}),
}
# Of each part: its TOMLs' names, and what is compared.
PARTS = {
    "nuscenes": ("gain", "none,imitation,xgd,xgd+imitation"),
    "kitti": (
        "gain_kitti",
        "none,xgd,whole_box,stereodistill_share,cld_share,response,stereodistill,cld",
    ),
}


def main(
    out: Annotated[Path, typer.Option(help="Folder for world, cache and runs.")],
    part: Annotated[str, typer.Option(help=f"{', '.join(PARTS)}.")] = "nuscenes",
    arms: Annotated[str, typer.Option(help="Comma-separated; default: the part's.")] = "",
    seeds: Annotated[str, typer.Option(help="Seeds, comma-separated.")] = "0,1,2",
    jobs: Annotated[int, typer.Option(help="Runs at a time, one thread each.")] = 2,
    configs: Annotated[Path, typer.Option(help="Folder of the TOMLs.")] = Path("configs"),
) -> None:
    """Run what is missing, then print the table."""
    prefix, usual = PARTS[part]
    root, names = out / "world", (arms or usual).split(",")
    make_world(load_world(configs / f"{prefix}_world.toml"), root, workers=jobs)
    student = load_config(configs / f"{prefix}_student.toml", StudentRun, data__root=root)
    chosen = {name: ARMS.get(name, Arm(name)).of(student) for name in names}
    teacher_run = load_config(configs / f"{prefix}_teacher.toml", TeacherRun, data__root=root)
    store, teacher = _prepare(teacher_run, out, chosen)
    results = {("teacher", 0): teacher}
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        waiting = {
            pool.submit(_train_and_score, chosen[name], seed, store, out / f"{name}-{seed}"): (
                name,
                seed,
            )
            for seed in map(int, seeds.split(","))
            for name in names
        }
        for done in as_completed(waiting):
            results[waiting[done]] = done.result()
            console.print(waiting[done], "done")
    for table in tables(results, names):
        console.print(table)


def _prepare(run: TeacherRun, out: Path, chosen: Mapping[str, StudentRun]) -> tuple[Path, Result]:
    """Teacher, and its cache for all arms; the teacher's own scores."""
    fit = run.fit.model_copy(update={"threads": 1})
    run = run.model_copy(update={"fit": fit})
    path = train_teacher(run, out / "teacher", resume=True, device="cpu")
    checkpoint, store = load_checkpoint(path, "teacher"), out / "store"
    read = {name: None for arm in chosen.values() for name in parse_methods(arm.method)}
    every = next(iter(chosen.values())).model_copy(update={"method": "+".join(read) or "none"})
    steps.ensure_cache(own_teacher(checkpoint, torch.device("cpu")), every, store)
    return store, _scored(path, run, out / "teacher")


def _train_and_score(run: StudentRun, seed: int, store: Path, folder: Path) -> Result:
    """One run in its own process; a finished one is read back."""
    fit = run.fit.model_copy(update={"seed": seed, "threads": 1})
    run = run.model_copy(update={"fit": fit})
    cache = open_cache(store) if run.method_configs else None
    path = train_student(run, cache, folder, resume=True, device="cpu")
    return _scored(path, run, folder)


def _scored(checkpoint: Path, run: TeacherRun | StudentRun, folder: Path) -> Result:
    record = folder / "result.json"
    if not record.is_file():
        detector = steps.load_detector(load_checkpoint(checkpoint), torch.device("cpu"))
        data = run.data.model_copy(update={"split": VAL_SPLIT})
        scores = steps.evaluate(detector, data, folder / "eval", pictures=0).scores
        assert scores is not None, "a world has labels"
        figures = last_values(folder) | mean_values(folder, ("share/", "xgd/kept/"))
        record.write_text(
            json.dumps({"scores": plain_scores(scores), "figures": figures}, indent=1)
        )
    result: Result = json.loads(record.read_text())
    return result


def tables(results: Mapping[Run, Result], arms: Sequence[str]) -> list[Table]:
    """Mean ± standard deviation over seeds and paired differences, for each group of figures."""
    return [
        table
        for title, figures in _figures(results).items()
        for table in (_spread_table(title, figures, arms), _gain_table(title, figures, arms))
    ]


def _figures(results: Mapping[Run, Result]) -> Figures:
    scores = {run: result["scores"] for run, result in results.items()}
    figures = _nuscenes(scores) if "class_ap" in scores["teacher", 0] else _kitti(scores)
    kept = {
        run: {
            name.removeprefix("mean/xgd/kept/"): value
            for name, value in result["figures"].items()
            if name.startswith("mean/xgd/kept/")
        }
        for run, result in results.items()
    }
    return figures | {"kept by xgd": {run: row for run, row in kept.items() if row}}


def _kitti(scores: Mapping[Run, Mapping[str, float]]) -> Figures:
    """Moderate AP of each class and their mean."""
    wanted = {
        "AP_3D moderate, strict overlaps, 40 recalls": "3d/moderate/strict/r40",
        "AP_3D moderate, loose overlaps, 40 recalls": "3d/moderate/loose/r40",
        "AP_BEV moderate, strict overlaps, 40 recalls": "bev/moderate/strict/r40",
    }
    figures: Figures = {}
    for title, setting in wanted.items():
        figures[title] = {}
        for run, row in scores.items():
            classes = {
                name.split("/")[0]: value for name, value in row.items() if name.endswith(setting)
            }
            figures[title][run] = classes | {"mean": statistics.mean(classes.values())}
    return figures


def _nuscenes(scores: Mapping[Run, Mapping[str, Any]]) -> Figures:
    """The official metrics, also by distance, and those of each class that every run finds."""
    found = [
        name
        for name in next(iter(scores.values()))["class_ap"]
        if all(row["class_ap"][name] >= FOUND for row in scores.values())
    ]
    official = _official(scores)
    by_distance = {
        f"official metrics, {metres} m": _official(
            {run: row["by_distance"][metres] for run, row in scores.items()}
        )
        for metres in next(iter(scores.values()))["by_distance"]
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
    return {"official metrics": official} | by_distance | each


def _official(scores: Mapping[Run, Mapping[str, Any]]) -> dict[Run, dict[str, float]]:
    return {run: {name: row[key] for name, key in METRICS.items()} for run, row in scores.items()}


def _spread_table(
    title: str, figures: Mapping[Run, Mapping[str, float]], arms: Sequence[str]
) -> Table:
    columns = _columns(figures)
    table = Table("arm", *columns, title=f"{title}: mean ± standard deviation over seeds")
    for arm in ("teacher", *arms):
        runs = [row for (name, _), row in figures.items() if name == arm]
        if runs:
            table.add_row(arm, *(_spread([row[column] for row in runs]) for column in columns))
    return table


def _gain_table(
    title: str, figures: Mapping[Run, Mapping[str, float]], arms: Sequence[str]
) -> Table:
    columns = _columns(figures)
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


def _columns(figures: Mapping[Run, Mapping[str, float]]) -> list[str]:
    """Those that every run has."""
    rows = list(figures.values())
    return [name for name in rows[0] if all(name in row for row in rows)] if rows else []


def _spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4g} ± {deviation:.2g}"


def _gain(values: list[float]) -> str:
    each = " ".join(f"{value:+.3g}" for value in values)
    return f"{statistics.mean(values):+.3g}\n({each})"


if __name__ == "__main__":
    typer.run(main)
