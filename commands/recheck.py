"""Holding a store against its teacher, with progress and tables."""

from collections.abc import Sequence

import numpy as np
from rich.table import Table

from commands.carry_over import CarryGap, measure_carry_over
from commands.progress import progress_bar
from frames.augment import BevAugment, BevAugmentConfig
from frames.dataset import read_frames
from frames.frame import Frame
from frames.sensor_input import check_sensor_files
from store.differences import differences
from store.errors import FingerprintError, PlanError
from store.reader import Cache
from student_train.config import StudentRun
from teacher_dump.protocol import Teacher
from teacher_dump.recheck import ArrayCheck, draw_rows, recheck, require_teacher


def rows_to_recheck(
    teacher: Teacher, run: StudentRun, cache: Cache, rows: int, seed: int
) -> list[tuple[Frame, int]]:
    """Random rows of the store, whose teacher this is: frame and view.

    Raises:
        FingerprintError: It is another teacher, or the run's ground truth is another.
        DataError: The run's data set lacks a frame, or a file of one.
    """
    require_teacher(cache, teacher.info)
    found, expected = cache.fingerprint.dataset.ground_truth_filter, run.data.ground_truth_filter
    if lines := list(differences(found, expected, "dataset.ground_truth_filter")):
        raise FingerprintError(cache.name, lines, "Give the TOML that the store was dumped for.")
    frames = read_frames(run.data.model_copy(update={"sweeps": teacher.info.sweeps}))
    drawn = draw_rows(cache, frames, rows, seed)
    check_sensor_files([frame for frame, _ in drawn], teacher.info.identity.kind)
    return drawn


def recheck_store(
    teacher: Teacher,
    cache: Cache,
    rows: Sequence[tuple[Frame, int]],
    tolerance: float,
    *,
    quiet: bool = False,
) -> list[ArrayCheck]:
    """Run the teacher again on these rows; see :func:`teacher_dump.recheck.recheck`."""
    with progress_bar(f"recheck · {cache.name}", len(rows), quiet=quiet) as advance:
        return recheck(teacher, cache, rows, tolerance=tolerance, on_rows=advance)


def augmented(
    run: StudentRun, cache: Cache, rows: Sequence[tuple[Frame, int]], draws: int, seed: int
) -> list[tuple[Frame, BevAugment]]:
    """So many augmentations, as the run draws them, of the frame of each row.

    Raises:
        PlanError: Nothing is carried over: the store has drawn views, or the run's augmentation is
            off.
    """
    if cache.views > 1 or run.bev_augment == BevAugmentConfig():
        raise PlanError(
            f"nothing is carried over: {cache.name} has {cache.views} views a frame and the run's "
            f"bev_augment is ({run.bev_augment}); expected one view and a [bev_augment] that moves"
        )
    rng = np.random.default_rng(seed)
    return [(frame, run.bev_augment.draw(rng)) for frame, _ in rows for _ in range(draws)]


def recheck_carry_over(
    teacher: Teacher,
    cache: Cache,
    shown: Sequence[tuple[Frame, BevAugment]],
    *,
    quiet: bool = False,
) -> list[CarryGap]:
    """Measure the carry-over policy; see :func:`commands.carry_over.measure_carry_over`."""
    with progress_bar(f"carry over · {cache.name}", len(shown), quiet=quiet) as advance:
        return measure_carry_over(teacher, cache, shown, advance)


def checks_table(checks: list[ArrayCheck]) -> Table:
    """One line an array."""
    table = Table(title="what is stored, against what the teacher says now")
    table.add_column("array")
    for column in ("rows", "largest error", "bound", "verdict"):
        table.add_column(column, justify="right")
    for check in checks:
        verdict = "within" if check.passed else "OUTSIDE"
        error = "not comparable" if check.error is None else f"{check.error:.2e}"
        table.add_row(check.array, str(check.rows), error, f"{check.bound:.2e}", verdict)
    return table


def carry_table(gaps: list[CarryGap]) -> Table:
    """One line a target."""
    table = Table(
        title="canonical targets carried into augmented frames, against the teacher there"
    )
    table.add_column("target")
    for column in ("augmented frames", "relative L2", "cosine", "mean absolute"):
        table.add_column(column, justify="right")
    for gap in gaps:
        table.add_row(
            *(gap.target, str(gap.frames), f"{gap.relative_l2:.3f}"),
            *(f"{gap.cosine:.3f}", f"{gap.mean_abs:.3f}"),
        )
    return table
