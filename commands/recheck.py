"""Holding a store against its teacher, with progress and tables."""

import numpy as np
from rich.table import Table

from commands.carry_over import CarryError, measure_carry_over
from commands.progress import progress_bar
from frames.augment import BevAugmentConfig
from frames.frame import Frame
from frames.loading import check_point_files
from frames.nuscenes import read_frames
from store.errors import PlanError
from store.reader import Cache
from student_train.config import StudentRun
from teacher_dump.protocol import Teacher
from teacher_dump.recheck import ArrayCheck, draw_rows, recheck, require_teacher


def recheck_store(
    teacher: Teacher, run: StudentRun, cache: Cache, *, rows: int, seed: int, tolerance: float
) -> list[ArrayCheck]:
    """Run the teacher again on random rows; see :func:`teacher_dump.recheck.recheck`."""
    require_teacher(cache, teacher.info)
    drawn = draw_rows(cache, _frames(teacher, run), rows, seed)
    if teacher.info.identity.kind != "camera":
        check_point_files([frame for frame, _ in drawn])
    with progress_bar(f"recheck · {cache.name}", len(drawn)) as advance:
        return recheck(teacher, cache, drawn, tolerance=tolerance, on_rows=advance)


def recheck_carry_over(
    teacher: Teacher, run: StudentRun, cache: Cache, *, rows: int, seed: int, draws: int
) -> list[CarryError]:
    """Measure the carry-over policy under the run's augmentation on random frames.

    Raises:
        PlanError: Nothing is carried: the store has drawn views, or the run's augmentation is off.
    """
    if cache.views > 1 or run.bev_augment == BevAugmentConfig():
        raise PlanError(
            f"nothing is carried over: {cache.name} has {cache.views} views a frame and the run's "
            f"bev_augment is ({run.bev_augment}); expected one view and a [bev_augment] that moves"
        )
    require_teacher(cache, teacher.info)
    frames = [frame for frame, _ in draw_rows(cache, _frames(teacher, run), rows, seed)]
    if teacher.info.identity.kind != "camera":
        check_point_files(frames)
    rng = np.random.default_rng(seed)
    shown = [(frame, run.bev_augment.draw(rng)) for frame in frames for _ in range(draws)]
    with progress_bar(f"carry over · {cache.name}", len(shown)) as advance:
        return measure_carry_over(teacher, cache, shown, advance)


def _frames(teacher: Teacher, run: StudentRun) -> list[Frame]:
    return read_frames(run.data.model_copy(update={"sweeps": teacher.info.sweeps}))


def checks_table(checks: list[ArrayCheck]) -> Table:
    """One line an array."""
    table = Table(title="what is stored, against what the teacher says now")
    table.add_column("array")
    for column in ("rows", "largest error", "bound", "verdict"):
        table.add_column(column, justify="right")
    for check in checks:
        verdict = "within" if check.passed else "OUTSIDE"
        table.add_row(
            check.array, str(check.rows), f"{check.error:.2e}", f"{check.bound:.2e}", verdict
        )
    return table


def carry_table(errors: list[CarryError]) -> Table:
    """One line a target."""
    table = Table(
        title="canonical targets carried into augmented frames, against the teacher there"
    )
    table.add_column("target")
    for column in ("augmented frames", "relative L2", "cosine", "mean absolute"):
        table.add_column(column, justify="right")
    for error in errors:
        table.add_row(
            *(error.target, str(error.frames), f"{error.relative_l2:.3f}"),
            *(f"{error.cosine:.3f}", f"{error.mean_abs:.3f}"),
        )
    return table
