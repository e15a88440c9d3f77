"""Run a teacher once over a split and write what the methods read to the cache."""

import subprocess
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from frames.anchor_assign import positive_anchors
from frames.anchors import AnchorConfig
from frames.cell_masks import anchors_of
from frames.dataset import DatasetConfig
from frames.frame import Frame
from store.choices import Coverage, Encoding
from store.differences import differences
from store.errors import PlanError
from store.fingerprint import Augmentation, DatasetIdentity, Fingerprint
from store.plan import EstimateRow, estimate, masks_of, plan_arrays
from store.rows import RowIdentity, RowValues, rows_of_frames, token_hash
from store.schema import CELL_PLACES, Need, Places
from store.writer import StoreWriter
from teacher_dump.protocol import Teacher
from teacher_dump.teacher_rows import cells_at, teacher_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpOptions:
    """How to keep what the methods read.

    Attributes:
        coverage: Whole maps or places.
        augmentation: On which views of the frames the teacher speaks.
        encoding: How features are stored; None: as the methods want them.
    """

    coverage: Coverage = Coverage.FOREGROUND
    augmentation: Augmentation = "canonical"
    encoding: Encoding | None = None


@dataclass(frozen=True, slots=True)
class DumpPlan:
    """What will be written, known before the teacher runs.

    Attributes:
        fingerprint: Identity of the cache.
        rows: The views of the frames, in order.
        sizes: Bytes of each array before compression.
    """

    fingerprint: Fingerprint
    rows: list[RowIdentity]
    sizes: list[EstimateRow]

    @property
    def total(self) -> int:
        """Bytes of all arrays before compression."""
        return sum(row.total for row in self.sizes)


def plan_dump(
    teacher: Teacher,
    frames: Sequence[Frame],
    data: DatasetConfig,
    needs: Iterable[Need],
    options: DumpOptions,
) -> DumpPlan:
    """Plan a dump of these frames for methods with these needs.

    Raises:
        PlanError: The teacher lacks what a method reads, or it cannot be stored.
    """
    info, needs = teacher.info, frozenset(needs)
    masks = masks_of(needs)
    _check_anchors(info.anchors, anchors_of(masks))
    fingerprint = Fingerprint(
        **info.decides,
        dataset=DatasetIdentity(
            name=data.dataset,
            version=data.version,
            split=data.split,
            token_hash=token_hash(frame.token for frame in frames),
            ground_truth_filter=data.ground_truth_filter,
        ),
        coverage=options.coverage,
        augmentation=options.augmentation,
        masks=masks,
        arrays=plan_arrays(needs, options.coverage, info.shapes, options.encoding),
        code_revision=code_revision(),
    )
    rows = rows_of_frames(frames, options.augmentation)
    lengths = _lengths(frames, rows, fingerprint)
    # How many there will be nobody knows before the teacher has run.
    lengths[Places.DETECTIONS] = info.shapes.detections * len(rows)
    return DumpPlan(fingerprint, rows, estimate(fingerprint.arrays, lengths))


def _check_anchors(own: AnchorConfig | None, wanted: AnchorConfig | None) -> None:
    if wanted is None or own == wanted:
        return
    if own is None:
        raise PlanError(
            "a method reads anchors, of which this teacher has none: bring one with an anchor "
            "head, or dump for other --methods"
        )
    lines = differences(own.model_dump(mode="json"), wanted.model_dump(mode="json"), "anchors")
    raise PlanError(
        f"the teacher's anchors are not the student's ({'; '.join(lines)}): a teacher speaks of "
        "the student's anchors, so give both the same"
    )


def _lengths(
    frames: Sequence[Frame], rows: Sequence[RowIdentity], fingerprint: Fingerprint
) -> dict[Places, int]:
    """How many places of each kind the rows have, counted in their annotations.

    What a teacher will find in frames without labels is not known: they count as the others' mean.
    """
    seen = frames_of_rows(frames, range(len(rows)), fingerprint.views)
    known = [(row, f) for row, f in zip(rows, seen, strict=True) if not f.unlabelled]
    truths = [row.augment.boxes3d(frame.boxes) for row, frame in known]
    lengths = {Places.BOXES: sum(len(boxes) for boxes in truths)}
    for places in CELL_PLACES:
        if any(spec.places is places for spec in fingerprint.arrays):
            lengths[places] = sum(
                len(cells_at(places, gt, row.token, fingerprint.grid, fingerprint.masks))
                for (row, _), gt in zip(known, truths, strict=True)
            )
    if anchors := anchors_of(fingerprint.masks):
        lengths[Places.ANCHORS] = sum(len(positive_anchors(anchors, gt)[0]) for gt in truths)
    whole = {places: count * len(rows) // max(1, len(known)) for places, count in lengths.items()}
    return whole | {Places.ROWS: len(rows)}


def frames_of_rows(frames: Sequence[Frame], rows: Iterable[int], views: int) -> list[Frame]:
    """The frame of each of these rows, where every frame has so many views side by side."""
    return [frames[row // views] for row in rows]


def dump(
    teacher: Teacher,
    frames: Sequence[Frame],
    writer: StoreWriter,
    *,
    batch_size: int = 4,
    on_rows: Callable[[int], None] = lambda _rows: None,
) -> None:
    """Write the parts of the cache that are not committed yet, and seal it.

    Args:
        teacher: Frozen.
        frames: In the order of the plan.
        writer: A store opened with the fingerprint of :func:`plan_dump` for these frames.
        batch_size: Rows the teacher sees at once.
        on_rows: Told how many more rows are done.

    Raises:
        CacheError: The disk is full, or a value does not fit the plan.
        DataError: A frame's file is missing or damaged.
    """
    pending = writer.pending_parts
    on_rows(len(writer.rows) - sum(len(part) for part in pending))
    # Threads of its own would make OpenMP put the teacher's to sleep between its operations.
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as disk:
        written: Future[None] = disk.submit(lambda: None)
        try:
            for part in pending:
                own = frames_of_rows(frames, part, writer.fingerprint.views)
                values = part_rows(
                    teacher, own, writer, part, batch_size=batch_size, on_rows=on_rows
                )
                # One part is written while the teacher computes the next; never more than one.
                written.result()
                written = disk.submit(writer.write_part, part, values)
        finally:
            # Also where the teacher fails: a write that failed is never lost.
            written.result()
    writer.finalise()


def part_rows(
    teacher: Teacher,
    frames: Sequence[Frame],
    writer: StoreWriter,
    part: range,
    *,
    batch_size: int,
    on_rows: Callable[[int], None] = lambda _rows: None,
) -> list[RowValues]:
    """Run the teacher on the rows of one part, of which these are the frames."""
    made_for = writer.fingerprint
    augments = [row.augment for row in writer.rows[part.start : part.stop]]
    values: list[RowValues] = []
    for start in range(0, len(frames), batch_size):
        own = slice(start, start + batch_size)
        values += teacher_rows(teacher, frames[own], made_for.given, made_for.masks, augments[own])
        on_rows(len(frames[own]))
    return values


def code_revision() -> str:
    """The package's version and, in a checkout, its commit."""
    release = version("bevcache")
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return release
    command = ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return f"{release}+{commit}" if commit else release
