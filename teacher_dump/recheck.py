"""Run the teacher again on some rows of a store, and hold its answers against what is stored."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from frames.errors import DataError
from frames.frame import Frame
from store.encoding import encode, largest_error
from store.errors import FingerprintError
from store.reader import Cache
from store.rows import CachedRow, RowValues
from store.schema import GT_LABELS, GT_VALUES, ArraySpec, Places
from store.values import ground_truth_arrays
from teacher_dump.defaults import TOLERANCE
from teacher_dump.found_boxes import same_order
from teacher_dump.protocol import Teacher, TeacherInfo
from teacher_dump.teacher_rows import teacher_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayCheck:
    """How far one array is from what the teacher says now.

    Attributes:
        array: Name.
        rows: Looked at.
        error: Largest :func:`store.encoding.largest_error` of the stored values from those of
            now, which is ``|stored - now| / max(1, |now|)`` where no ranges are stored; None where
            the shapes differ or a value is not finite.
        bound: Largest that is accepted: the array's ``max_error`` and, for numbers that are not
            integers, the tolerance.
    """

    array: str
    rows: int
    error: float | None
    bound: float

    @property
    def passed(self) -> bool:
        """Whether it is within its bound."""
        return self.error is not None and self.error <= self.bound


def require_teacher(cache: Cache, info: TeacherInfo) -> None:
    """Refuse a teacher that is not the store's.

    Raises:
        FingerprintError: Weights, config, grid or classes differ; lists all differences.
    """
    expected = cache.fingerprint.model_copy(update=info.decides)
    if mismatches := cache.fingerprint.mismatches(expected):
        raise FingerprintError(
            cache.name,
            mismatches,
            "Give the --checkpoint that the store was dumped with, and its --label-encoder if any.",
        )


def draw_rows(
    cache: Cache, frames: Sequence[Frame], count: int, seed: int
) -> list[tuple[Frame, int]]:
    """Random rows of the store, each once: frame and view.

    Args:
        cache: The store.
        frames: Of its data set; rows of other frames are not drawn, as a merged store may have
            some of another split.
        count: So many rows, or all if there are fewer.
        seed: Of the choice.

    Raises:
        DataError: The data set has none of the store's frames.
    """
    by_token = {frame.token: frame for frame in frames}
    tokens = [token for token in cache.tokens if token in by_token]
    if not tokens:
        made_for = cache.fingerprint.dataset
        raise DataError(
            f"none of the {len(cache)} frames of {cache.name} is in the data set given; the store "
            f"was dumped from {made_for.name} {made_for.version}, split {made_for.split}"
        )
    total = len(tokens) * cache.views
    chosen = np.random.default_rng(seed).choice(total, min(count, total), replace=False)
    drawn = [divmod(int(row), cache.views) for row in sorted(chosen)]
    return [(by_token[tokens[frame]], view) for frame, view in drawn]


def recheck(
    teacher: Teacher,
    cache: Cache,
    rows: Sequence[tuple[Frame, int]],
    *,
    tolerance: float = TOLERANCE,
    on_rows: Callable[[int], None] = lambda _rows: None,
) -> list[ArrayCheck]:
    """Compare rows of a store, one after the other, with what its teacher says of them now.

    Args:
        teacher: The store's own; see :func:`require_teacher`.
        cache: The store.
        rows: From :func:`draw_rows`.
        tolerance: What other hardware and batches may change, relative as ``max_error`` is.
        on_rows: Told how many more rows are done.

    Returns:
        One check an array, ground truth included.

    Raises:
        CacheError: A row is damaged.
        DataError: A frame's file is missing or damaged.
    """
    made_for = cache.fingerprint
    compared = (*made_for.given, GT_VALUES, GT_LABELS)
    found: dict[str, list[float | None]] = {spec.name: [] for spec in compared}
    for frame, view in rows:
        row = cache.row(frame.token, view)
        (now,) = teacher_rows(teacher, [frame], made_for.given, made_for.masks, [row.augment])
        stored, given = _in_one_order(_arrays(row), _arrays(now))
        for spec in compared:
            found[spec.name].append(_error(spec, stored[spec.name], given[spec.name]))
        on_rows(1)
    return [
        ArrayCheck(
            array=spec.name,
            rows=len(rows),
            error=_largest(found[spec.name]),
            bound=_bound(spec, tolerance),
        )
        for spec in compared
    ]


def _in_one_order(
    stored: dict[str, npt.NDArray[Any]], now: dict[str, npt.NDArray[Any]]
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[Any]]]:
    """The same, detections side by side that are the same ones."""
    own, given = (
        {name: values for name, values in told.items() if name.startswith(f"{Places.DETECTIONS}/")}
        for told in (stored, now)
    )
    if own:
        own, given = same_order(own, given)
    return stored | own, now | given


def _arrays(row: CachedRow | RowValues) -> dict[str, npt.NDArray[Any]]:
    return row.arrays | ground_truth_arrays(row.gt)


def _bound(spec: ArraySpec, tolerance: float) -> float:
    is_number = spec.encoding is not None or spec.dtype.startswith("float")
    return spec.max_error + (tolerance if is_number else 0.0)


def _largest(errors: Sequence[float | None]) -> float | None:
    known = [error for error in errors if error is not None]
    return max(known) if len(known) == len(errors) else None


def _error(spec: ArraySpec, stored: npt.NDArray[Any], now: npt.NDArray[Any]) -> float | None:
    if stored.shape != now.shape:
        return None
    if spec.encoding:
        ranges = encode(now, spec.encoding, spec.channel_axis)[1]
        return _finite(largest_error(now, stored, ranges, spec.channel_axis))
    gap = np.abs(stored.astype(np.float64) - now.astype(np.float64))
    if spec.name.endswith("/yaw"):
        # An angle next to a half turn may change its sign by rounding.
        gap = np.minimum(gap, np.abs(2 * math.pi - gap))
    return _finite(float((gap / np.maximum(1.0, np.abs(now))).max(initial=0.0)))


def _finite(error: float) -> float | None:
    return error if math.isfinite(error) else None
