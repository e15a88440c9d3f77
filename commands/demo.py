"""The demo: the whole main job on a small world, ending in a table and pictures."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from commands import steps
from commands.amounts import human_bytes
from commands.planned_dump import plan_teacher_dump
from commands.progress import console
from commands.tables import models_table, plain_scores
from commands.world import load_world, make_world
from frames.dataset import DatasetConfig
from frames.kitti.scoring import KittiScores
from frames.scoring import Scores
from runs.checkpoint import load_checkpoint
from runs.config import load_config
from runs.metrics import last_values, mean_values
from store.reader import open_cache
from student_train.config import StudentRun
from student_train.methods.xgd import COMPONENTS
from student_train.registry import parse_methods
from student_train.train import train_student
from teacher_dump.config import TeacherRun
from teacher_dump.teachers import own_teacher
from teacher_dump.train import train_teacher

VAL_SPLIT = "world_val"
DEVICE = "cpu"


# Of each data set: its TOMLs' names, and the students to train.
DEMOS = {
    "nuscenes": ("demo", ("none", "xgd")),
    "kitti": ("demo_kitti", ("none", "stereodistill")),
}


def run_demo(configs: Path, out: Path, data: str, methods: Sequence[str] = ()) -> None:
    """Make a world, train and dump a teacher, train students, score everything.

    What is there already from an interrupted demo is not done again.

    Args:
        configs: Folder with demo_world, demo_teacher and demo_student.toml, or demo_kitti_....
        out: Everything goes here.
        data: One of ``DEMOS``.
        methods: One student for each; none given: those of ``DEMOS``.

    Raises:
        RunInterruptedError: Ctrl-C; the same command continues.
    """
    prefix, usual = DEMOS[data]
    methods = methods or usual
    for method in methods:
        parse_methods(method)
    began = time.monotonic()
    root = out / "world"
    teacher_run = load_config(configs / f"{prefix}_teacher.toml", TeacherRun, data__root=root)
    student_run = load_config(configs / f"{prefix}_student.toml", StudentRun, data__root=root)
    console.rule(f"1 of 5 · a procedural world, as a {data} tree")
    make_world(load_world(configs / f"{prefix}_world.toml"), root, workers=2)
    console.rule("2 of 5 · the LiDAR teacher")
    checkpoint = train_teacher(teacher_run, out / "teacher", resume=True, device=DEVICE)
    console.rule("3 of 5 · its cache: what the students' losses read, once")
    teacher = own_teacher(load_checkpoint(checkpoint, "teacher"), torch.device(DEVICE))
    store = out / "store"
    every_method = "+".join(dict.fromkeys(n for m in methods for n in parse_methods(m)))
    needy = student_run.model_copy(update={"method": every_method or "none"})
    steps.ensure_cache(teacher, plan_teacher_dump(teacher, needy), store)
    console.rule("4 of 5 · students: images in, boxes out; no teacher, no LiDAR at run time")
    students = {
        method: _train_student(student_run, method, store, out / f"student_{method}")
        for method in methods
    }
    console.rule(f"5 of 5 · the scores of {data}")
    _report(out, checkpoint, students, store)
    console.print(f"all of it took {(time.monotonic() - began) / 60:.1f} min")


def _unseen(detector: steps.Detector) -> DatasetConfig:
    """The frames that nobody trained on."""
    return detector.data.model_copy(update={"split": VAL_SPLIT})


def _scores(of: steps.Evaluation) -> Scores | KittiScores:
    assert of.scores is not None, "a world has labels"
    return of.scores


def _train_student(run: StudentRun, method: str, store: Path, out: Path) -> Path:
    run = run.model_copy(update={"method": method})
    cache = open_cache(store) if run.method_configs else None
    return train_student(run, cache, out, resume=True, device=DEVICE)


def _report(out: Path, teacher: Path, students: dict[str, Path], store: Path) -> None:
    """Evaluate all, print the table and where the pictures are, write ``demo.json``."""
    device = torch.device(DEVICE)
    lidar = steps.load_detector(load_checkpoint(teacher), device)
    judged = steps.evaluate(lidar, _unseen(lidar), out / "eval_teacher", pictures=0)
    rows = {"teacher (LiDAR)": _scores(judged)}
    seconds: dict[str, str] = {}
    kept: dict[str, str] = {}
    pictures: list[Path] = []
    for method, path in students.items():
        detector = steps.load_detector(load_checkpoint(path), device)
        folder = out / f"eval_{method}"
        result = steps.evaluate(detector, _unseen(detector), folder, pictures=2, teacher=lidar)
        name = f"student {method}"
        rows[name] = _scores(result)
        pictures += result.pictures
        seconds[name] = f"{last_values(path.parent)['step_seconds']:.2f}"
        means = mean_values(path.parent, ("xgd/kept/",))
        parts = [part for part in COMPONENTS if f"mean/xgd/kept/{part}" in means]
        kept[name] = "\n".join(f"{part} {means[f'mean/xgd/kept/{part}']:.2f}" for part in parts)
    console.print(models_table(rows, seconds_a_step=seconds, kept=kept))
    frames = len(open_cache(store))
    per_frame = steps.stored_bytes(store) / frames
    console.print(f"cache: {human_bytes(per_frame)} a frame on disk, {frames} frames")
    for path in pictures:
        console.print(f"picture {path}", highlight=False, soft_wrap=True)
    record = {
        "scores": {name: plain_scores(scores) for name, scores in rows.items()},
        "step_seconds": seconds,
        "kept": kept,
        "cache_bytes_per_frame": per_frame,
    }
    (out / "demo.json").write_text(json.dumps(record, indent=2))
