"""What each method brings: the same student, budget and data, paired seeds, official metrics.

    python -m benchmarks.gains --out OUT               # nuScenes; continues where it stopped
    python -m benchmarks.gains --part kitti --out OUT --seeds 0,1 --arms none,xgd

Makes the part's world, trains and dumps its teachers once, then trains a student for every arm and
seed, ``--jobs`` at a time on one thread each, and prints mean, spread and the paired difference to
the same student without a method. Parts and arms: ``benchmarks/gain_parts.py``.

In nuScenes a class that is hardly found counts with the largest errors in NDS and in the mean TP
errors, which then jump with a handful of boxes; so the errors of the classes that every run finds
are printed too.
"""

import json
import multiprocessing
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.gain_costs import costs, time_teacher
from benchmarks.gain_parts import LABEL_ENCODER, PARTS, Arm
from benchmarks.gain_pictures import draw_gains
from benchmarks.gain_tables import Result, Run, of_nuscenes, tables
from commands import steps
from commands.progress import console
from commands.tables import plain_scores
from commands.world import load_world, make_world
from runs.checkpoint import load_checkpoint
from runs.config import load_config
from runs.metrics import last_values, mean_values
from store.reader import open_cache
from student_train.config import StudentRun
from student_train.train import train_student
from teacher_dump.config import TeacherRun
from teacher_dump.label_config import LabelEncoderRun
from teacher_dump.teachers import own_teacher
from teacher_dump.train import train_teacher
from teacher_dump.train_labels import train_label_encoder

VAL_SPLIT = "world_val"


def main(
    out: Annotated[Path, typer.Option(help="Folder for world, caches and runs.")],
    part: Annotated[str, typer.Option(help=f"{', '.join(PARTS)}.")] = "nuscenes",
    arms: Annotated[str, typer.Option(help="Comma-separated; default: the part's.")] = "",
    seeds: Annotated[str, typer.Option(help="Seeds, comma-separated.")] = "0,1,2",
    jobs: Annotated[int, typer.Option(help="Runs at a time, one thread each.")] = 2,
    configs: Annotated[Path, typer.Option(help="Folder of the TOMLs.")] = Path("configs"),
) -> None:
    """Run what is missing, then print the tables."""
    wanted = PARTS[part]
    names = arms.split(",") if arms else wanted.usual
    chosen = {name: wanted.arms[name] for name in names}
    root, prefix = out / "world", configs / wanted.prefix
    make_world(load_world(configs / f"{wanted.world}_world.toml"), root, workers=jobs)
    teachers = sorted({arm.teacher for arm in chosen.values() if arm.method != "none"})
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        results = _side_by_side(
            {
                (name, 0): pool.submit(
                    _teach,
                    load_config(Path(f"{prefix}_{name}.toml"), TeacherRun, data__root=root),
                    out / name,
                )
                for name in teachers
            }
        )
        if any(arm.embeds_labels for arm in chosen.values()):
            _train_labels(Path(f"{prefix}_{LABEL_ENCODER}.toml"), out)
        runs = {
            name: arm.of(
                load_config(Path(f"{prefix}_{arm.student}.toml"), StudentRun, data__root=root), out
            )
            for name, arm in chosen.items()
        }
        stores = _dump(chosen, runs, out)
        results |= _side_by_side(
            {
                (name, seed): pool.submit(
                    _train_and_score, runs[name], seed, stores.get(name), out / f"{name}-{seed}"
                )
                for seed in map(int, seeds.split(","))
                for name in names
            }
        )
    for table in tables(results, chosen):
        console.print(table)
    if of_nuscenes(results):
        draw_gains(results, chosen, out)


def _side_by_side(runs: Mapping[Run, Future[Result]]) -> dict[Run, Result]:
    """What the runs have come to, each announced as it ends."""
    whose = {future: run for run, future in runs.items()}
    for done in as_completed(whose):
        done.result()
        console.print(whose[done], "done")
    return {run: future.result() for run, future in runs.items()}


def _teach(run: TeacherRun, folder: Path) -> Result:
    """The teacher's own scores."""
    run = run.model_copy(update={"fit": run.fit.model_copy(update={"threads": 1})})
    return _scored(train_teacher(run, folder, resume=True, device="cpu"), run, folder)


def _train_labels(config: Path, out: Path) -> None:
    run = load_config(config, LabelEncoderRun, data__root=out / "world")
    run = run.model_copy(update={"fit": run.fit.model_copy(update={"threads": 1})})
    teacher = out / "teacher" / "teacher.pt"
    train_label_encoder(run, teacher, out / LABEL_ENCODER, resume=True, device="cpu")


def _dump(arms: Mapping[str, Arm], runs: Mapping[str, StudentRun], out: Path) -> dict[str, Path]:
    """A cache of each teacher for all who read it; whose runs read which."""
    stores = {
        name: out / arm.teacher.replace("teacher", "store")
        for name, arm in arms.items()
        if arm.method != "none"
    }
    for store in sorted(set(stores.values())):
        readers = [name for name, own in stores.items() if own == store]
        checkpoint = load_checkpoint(out / arms[readers[0]].teacher / "teacher.pt", "teacher")
        every = _with_all_methods(runs[name] for name in readers)
        teacher = own_teacher(checkpoint, torch.device("cpu"))
        steps.ensure_cache(teacher, every, store)
        time_teacher(teacher, every, store)
    return stores


def _with_all_methods(runs: Iterable[StudentRun]) -> StudentRun:
    """The first run with the methods of all, each as the first that has it has it."""
    first, *_ = found = list(runs)
    whose = {name: run for run in reversed(found) for name in run.method_configs}
    document = first.model_dump(mode="json")
    for name, run in whose.items():
        document["methods"][name] = run.model_dump(mode="json")["methods"][name]
    return StudentRun.model_validate(document | {"method": "+".join(whose)})


def _train_and_score(run: StudentRun, seed: int, store: Path | None, folder: Path) -> Result:
    """One run in its own process; a finished one is read back."""
    fit = run.fit.model_copy(update={"seed": seed, "threads": 1})
    run = run.model_copy(update={"fit": fit})
    cache = None if store is None else open_cache(store)
    path = train_student(run, cache, folder, resume=True, device="cpu")
    return _scored(path, run, folder) | {"costs": costs(run, store, folder)}


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


if __name__ == "__main__":
    typer.run(main)
