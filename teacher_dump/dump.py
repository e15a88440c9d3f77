"""Run a teacher once over a split and write what the methods read to the cache."""

import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from frames.box_code import encode_boxes_at
from frames.boxes import CENTRE, SIZE, VELOCITY, YAW, BoxBatch
from frames.frame import Frame
from frames.grid import BEVGrid
from frames.heatmap import foreground_cells
from frames.nuscenes import NuScenesConfig
from store.plan import EstimateRow, estimate, plan_arrays
from store.rows import RowValues, token_hash
from store.schema import (
    CELL_INDEX,
    ArraySpec,
    Coverage,
    DatasetIdentity,
    Fingerprint,
    Need,
    Places,
    Target,
)
from store.writer import StoreWriter
from teacher_dump.protocol import Teacher, TeacherError, TeacherOutput

NO_BOX = -1


@dataclass(frozen=True, slots=True)
class DumpPlan:
    """What will be written, known before the teacher runs.

    Attributes:
        fingerprint: Identity of the cache.
        sizes: Bytes of each array before compression.
    """

    fingerprint: Fingerprint
    sizes: list[EstimateRow]


def plan_dump(
    teacher: Teacher,
    frames: Sequence[Frame],
    data: NuScenesConfig,
    needs: Iterable[Need],
    coverage: Coverage,
) -> DumpPlan:
    """Plan a dump of these frames for methods with these needs."""
    info = teacher.info
    arrays = plan_arrays(needs, coverage, info.shapes)
    cells = sum(len(foreground_cells(frame.boxes, info.shapes.grid)) for frame in frames)
    fingerprint = Fingerprint(
        teacher=info.identity,
        dataset=DatasetIdentity(
            name="nuscenes",
            version=data.version,
            split=data.split,
            token_hash=token_hash(frame.token for frame in frames),
            ground_truth_filter=data.ground_truth_filter,
        ),
        grid=info.shapes.grid,
        classes=info.classes,
        coverage=coverage,
        arrays=arrays,
        code_revision=code_revision(),
    )
    boxes = sum(len(frame.boxes) for frame in frames)
    sizes = estimate(arrays, frames=len(frames), boxes_total=boxes, cells_total=cells)
    return DumpPlan(fingerprint, sizes)


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
        batch_size: Frames the teacher sees at once.
        on_rows: Told how many more rows are done.

    Raises:
        CacheError: The disk is full, or a value does not fit the plan.
        DataError: A frame's file is missing or damaged.
    """
    pending = writer.pending_parts
    on_rows(len(frames) - sum(len(part) for part in pending))
    with ThreadPoolExecutor(1) as disk:
        written: Future[None] = disk.submit(lambda: None)
        try:
            for part in pending:
                own = frames[part.start : part.stop]
                arrays = writer.fingerprint.arrays
                values = part_rows(teacher, own, arrays, batch_size=batch_size, on_rows=on_rows)
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
    arrays: Sequence[ArraySpec],
    *,
    batch_size: int,
    on_rows: Callable[[int], None] = lambda _rows: None,
) -> list[RowValues]:
    """Run the teacher on the frames of one part."""
    values: list[RowValues] = []
    for start in range(0, len(frames), batch_size):
        batch = frames[start : start + batch_size]
        values += list(teacher_rows(teacher, batch, arrays))
        on_rows(len(batch))
    return values


def teacher_rows(
    teacher: Teacher, frames: Sequence[Frame], arrays: Sequence[ArraySpec]
) -> Iterator[RowValues]:
    """Run the teacher on a batch and read its output at the planned places."""
    with torch.inference_mode():
        output = teacher(frames, BoxBatch.pad([frame.boxes for frame in frames]))
    grid = teacher.info.shapes.grid
    for b, frame in enumerate(frames):
        cells = foreground_cells(frame.boxes, grid)
        boxes = _box_arrays(output, b, len(frame.boxes))
        values: dict[str, npt.NDArray[Any]] = {}
        for spec in arrays:
            if spec.name == CELL_INDEX:
                values[spec.name] = cells.numpy().astype(np.int32)
            elif spec.name in boxes:
                values[spec.name] = boxes[spec.name]
            elif spec.places is Places.BOXES:
                own = grid.cell_index(frame.boxes.values[:, :2])
                code = encode_boxes_at(output.boxes[b, : len(own)].cpu().float(), own, grid)
                values[spec.name] = code.numpy()
            else:
                map_ = _map(output, Target(spec.name), grid)[b].float().cpu()
                at_cells = spec.places is Places.CELLS
                values[spec.name] = (map_.flatten(1)[:, cells].T if at_cells else map_).numpy()
        yield RowValues(token=frame.token, gt=frame.boxes, arrays=values)


def _map(output: TeacherOutput, target: Target, grid: BEVGrid) -> Tensor:
    """One of the teacher's maps, held against its own grid: cells are read by their index."""
    if target not in output.maps:
        raise TeacherError(
            f"the teacher gives no map {target!s}, which a method reads; it gives "
            f"{sorted(output.maps)}: add it to TeacherOutput.maps, or dump for other --methods"
        )
    found = output.maps[target]
    if found.shape[2:] != grid.shape:
        raise TeacherError(
            f"the teacher's map {target!s} is {' x '.join(map(str, found.shape[2:]))} cells, its "
            f"info.shapes.grid {' x '.join(map(str, grid.shape))}: they must be the same"
        )
    return found


def _box_arrays(output: TeacherOutput, b: int, count: int) -> dict[str, npt.NDArray[Any]]:
    """Decomposed boxes of one frame; where the teacher has none, zeros and the label -1."""
    answered = output.answered[b, :count].cpu()

    def masked(values: Tensor, missing: int = 0) -> npt.NDArray[Any]:
        values = values[:count].cpu()
        keep = answered.reshape(-1, *[1] * (values.ndim - 1))
        array: npt.NDArray[Any] = torch.where(keep, values, missing).numpy()
        return array

    values = output.boxes[b].float()
    return {
        "boxes/centre": masked(values[:, CENTRE]),
        "boxes/size": masked(values[:, SIZE]),
        "boxes/yaw": masked(values[:, YAW]),
        "boxes/velocity": masked(values[:, VELOCITY]),
        "boxes/score": masked(output.scores[b].float()),
        "boxes/label": masked(output.labels[b], NO_BOX),
    }


def code_revision() -> str:
    """The package's version and, in a checkout, its commit."""
    release = version("bevcache")
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return release
    command = ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return f"{release}+{commit}" if commit else release
