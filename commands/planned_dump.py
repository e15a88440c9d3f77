"""What a dump will write and how long it will take, said before it begins."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from commands.amounts import human_bytes, human_time
from commands.plans import plan_table
from commands.progress import console
from frames.augment import BevAugmentConfig
from frames.dataset import read_frames
from frames.frame import Frame
from frames.sensor_input import check_sensor_files
from runs.errors import ConfigError
from store.choices import Coverage, Encoding
from store.differences import differences
from store.errors import PlanError
from store.fingerprint import Augmentation, DrawnViews
from store.plan import plan_arrays
from store.schema import Need
from student_train.config import StudentRun
from student_train.train import needs_of
from teacher_dump.dump import DumpOptions, DumpPlan, frames_of_rows, plan_dump
from teacher_dump.label_teacher import label_needs
from teacher_dump.protocol import Teacher
from teacher_dump.stages import LABELS
from teacher_dump.teacher_rows import teacher_rows


@dataclass(frozen=True, slots=True)
class PlannedDump:
    """A dump whose size has been printed: its frames and what will be written of them."""

    frames: list[Frame]
    plan: DumpPlan


def methods_served(teacher: Teacher, run: StudentRun) -> list[str]:
    """The methods for the student's head that teacher and student give all they read.

    Says which are left out, and why. Those that read whole maps are in: what they weigh is printed.

    Raises:
        PlanError: It serves none.
    """
    served, shapes = [], teacher.info.shapes
    for name in run.known_methods:
        try:
            needs = _needs(teacher, run.model_copy(update={"method": name}))
            plan_arrays(needs, Coverage.DENSE, shapes)
        except (PlanError, ConfigError) as error:
            console.print(f"left out {name}: {error}")
        else:
            served.append(name)
    if not served:
        raise PlanError(
            f"the teacher serves none of {', '.join(run.known_methods)}: bring another one"
        )
    return served


def plan_teacher_dump(
    teacher: Teacher,
    run: StudentRun,
    *,
    coverage: Coverage = Coverage.FOREGROUND,
    views: int = 1,
    encoding: Encoding | None = None,
    limit: int | None = None,
) -> PlannedDump:
    """Plan a dump of the run's frames for the run's methods, and print what it will weigh.

    Args:
        teacher: Who will speak.
        run: Frames, methods and, for several views, the ranges of augmentation and their seed.
        coverage: Whole maps or places.
        views: Drawn augmentations of each frame; 1: the frame as it is.
        encoding: How features are stored; None: as the methods want them.
        limit: Only the first so many frames.

    Raises:
        PlanError: The needs cannot be stored, or several views of an augmentation that is off.
    """
    # Absolute: a worker on another machine has another working folder.
    changes = {"sweeps": teacher.info.sweeps, "root": run.data.root.absolute()}
    data = run.data.model_copy(update=changes)
    frames = read_frames(data, limit)
    _check_grid(teacher, run)
    options = DumpOptions(
        coverage=coverage, augmentation=_augmentation(run, views), encoding=encoding
    )
    needs = _needs(teacher, run)
    if needs_of(run) - needs:
        console.print(
            "without --label-encoder no label maps: train-student --label-encoder computes them"
        )
    plan = plan_dump(teacher, frames, data, needs, options)
    console.print(plan_table(plan.sizes))
    console.print(
        f"{len(plan.rows)} rows ({len(frames)} frames of {data.split} x {views} views): "
        f"about {human_bytes(plan.total)} before compression"
    )
    return PlannedDump(frames, plan)


def _needs(teacher: Teacher, run: StudentRun) -> frozenset[Need]:
    """What the run's methods read; of a teacher without label maps none: steps compute them."""
    needs, labels = needs_of(run).union(label_needs(teacher.info)), set(LABELS.values())
    if labels & teacher.info.shapes.further.keys():
        return needs
    return frozenset(need for need in needs if need.target not in labels)


def _check_grid(teacher: Teacher, run: StudentRun) -> None:
    found, expected = teacher.info.shapes.grid, run.student.grid
    lines = differences(found.model_dump(mode="json"), expected.model_dump(mode="json"), "grid")
    if different := list(lines):
        raise PlanError(
            f"the teacher's grid is not that of the run's student ({'; '.join(different)}), so no "
            "student of it could read the cache: change student.grid, or bring another teacher"
        )


def _augmentation(run: StudentRun, views: int) -> Augmentation:
    if views == 1:
        return "canonical"
    if run.bev_augment == BevAugmentConfig():
        raise PlanError(
            f"--views {views}: the run's bev_augment is off, so all views would be the same; give "
            "the TOML a table [bev_augment], or leave --views out"
        )
    return DrawnViews(views=views, ranges=run.bev_augment, seed=run.fit.seed)


def announce_time(
    teacher: Teacher, planned: PlannedDump, batch_size: int, rows: Sequence[int]
) -> None:
    """Print how long these rows will take: the teacher is run on up to two batches of them.

    Args:
        teacher: The one that will be dumped, on its device.
        planned: From :func:`plan_teacher_dump`.
        batch_size: Rows the teacher sees at once.
        rows: Those to write.

    Raises:
        DataError: A frame's file is missing or damaged.
    """
    if rows:
        seconds = seconds_a_row(teacher, planned, batch_size, rows)
        console.print(
            f"about {human_time(seconds * len(rows))} for {len(rows)} rows, without writing, in "
            f"one process: the teacher took {seconds:.3f} s a row, measured by running it on "
            f"{min(len(rows), 2 * batch_size)} of these rows"
        )


def seconds_a_row(
    teacher: Teacher, planned: PlannedDump, batch_size: int, rows: Sequence[int]
) -> float:
    """How long the teacher takes, its files read, on the second batch of these rows.

    The first one warms up; it counts only where there is no other.
    """
    plan, made_for = planned.plan, planned.plan.fingerprint
    seconds = 0.0
    for batch in filter(None, (rows[:batch_size], rows[batch_size : 2 * batch_size])):
        frames = frames_of_rows(planned.frames, batch, made_for.views)
        check_sensor_files(frames, teacher.info.identity.kind)
        augments = [plan.rows[row].augment for row in batch]
        began = time.perf_counter()
        list(teacher_rows(teacher, frames, made_for.given, made_for.masks, augments))
        seconds = (time.perf_counter() - began) / len(batch)
    return seconds
