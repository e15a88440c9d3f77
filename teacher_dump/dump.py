"""Run a teacher once over a split and write what the methods read to the cache."""

import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from frames.box_code import encode_boxes_at
from frames.boxes import CENTRE, SIZE, VELOCITY, YAW, BoxBatch
from frames.cell_masks import CellMask, foreground_cells
from frames.frame import Frame
from frames.grid import BEVGrid
from frames.nuscenes import NuScenesConfig
from nets.box_features import at_box_points, relation
from store.plan import EstimateRow, TeacherShapes, estimate, masks_of, plan_arrays
from store.rows import RowValues, token_hash
from store.schema import (
    CELL_PLACES,
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
    info, needs = teacher.info, frozenset(needs)
    arrays, masks = plan_arrays(needs, coverage, info.shapes), masks_of(needs)
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
        masks=masks,
        arrays=arrays,
        code_revision=code_revision(),
    )
    return DumpPlan(fingerprint, estimate(arrays, _lengths(frames, fingerprint)))


def _lengths(frames: Sequence[Frame], fingerprint: Fingerprint) -> dict[Places, int]:
    """How many places of each kind the frames have, counted in their annotations."""
    lengths = {Places.ROWS: len(frames), Places.BOXES: sum(len(f.boxes) for f in frames)}
    kinds = {spec.places for spec in fingerprint.arrays}
    for places in CELL_PLACES:
        if places in kinds:
            own = (fingerprint.grid, fingerprint.masks)
            lengths[places] = sum(len(_cells(frame, places, *own)) for frame in frames)
    return lengths


def _cells(
    frame: Frame, places: Places, grid: BEVGrid, masks: Sequence[CellMask]
) -> Int64[Tensor, " k"]:
    own = grid if places is Places.CELLS else grid.coarser
    return foreground_cells(frame.boxes, own, masks, frame.token)


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
    for part in pending:
        own = frames[part.start : part.stop]
        dump_part(teacher, own, writer, part, batch_size=batch_size, on_rows=on_rows)
    writer.finalise()


def dump_part(
    teacher: Teacher,
    frames: Sequence[Frame],
    writer: StoreWriter,
    part: range,
    *,
    batch_size: int,
    on_rows: Callable[[int], None] = lambda _rows: None,
) -> None:
    """Run the teacher on the frames of one part, and commit it."""
    values: list[RowValues] = []
    fingerprint = writer.fingerprint
    for start in range(0, len(frames), batch_size):
        batch = frames[start : start + batch_size]
        values += list(teacher_rows(teacher, batch, fingerprint.arrays, fingerprint.masks))
        on_rows(len(batch))
    writer.write_part(part, values)


def teacher_rows(
    teacher: Teacher,
    frames: Sequence[Frame],
    arrays: Sequence[ArraySpec],
    masks: Sequence[CellMask],
) -> Iterator[RowValues]:
    """Run the teacher on a batch and read its output at the planned places.

    Args:
        teacher: Frozen.
        frames: The batch.
        arrays: What to read.
        masks: Which cells, for arrays at cells.
    """
    boxes = BoxBatch.pad([frame.boxes for frame in frames])
    with torch.inference_mode():
        output = teacher(frames, boxes)
    shapes = teacher.info.shapes
    for b, frame in enumerate(frames):
        reading = _Reading(output, shapes, frame, b)
        ready = _box_arrays(output, b, len(frame.boxes))
        for places in CELL_PLACES:
            if any(spec.places is places for spec in arrays):
                cells = _cells(frame, places, shapes.grid, masks)
                reading.cells[places] = cells
                ready[places.index_array] = cells.numpy().astype(np.int32)
        values = {
            spec.name: ready[spec.name] if spec.name in ready else reading.array(spec)
            for spec in arrays
        }
        yield RowValues(token=frame.token, gt=frame.boxes, arrays=values)


@dataclass(frozen=True, slots=True)
class _Reading:
    """One frame of a teacher's output, read at the places of an array."""

    output: TeacherOutput
    shapes: TeacherShapes
    frame: Frame
    b: int
    cells: dict[Places, Int64[Tensor, " k"]] = field(default_factory=dict)

    def array(self, spec: ArraySpec) -> npt.NDArray[Any]:
        """The array's values, places first.

        Raises:
            TeacherError: The teacher does not give it.
        """
        if spec.places in (Places.ANCHORS, Places.DETECTIONS):
            return self._listed(spec.name)
        target = Target(spec.name.split("/")[-1])
        if spec.places is Places.BOXES and target is Target.BOX_CODE:
            return self._box_code().numpy()
        if target is Target.RELATION:
            return relation(self._at_points(Target.BEV_HIGH)).numpy()
        if spec.places is Places.POINTS:
            return self._at_points(target).numpy()
        map_ = self._map(target)
        if spec.places in CELL_PLACES:
            return map_.flatten(1)[:, self.cells[spec.places]].T.contiguous().numpy()
        return map_.numpy()

    def _map(self, target: Target) -> Float[Tensor, "c h w"]:
        """One of the teacher's maps, held against its own grid: cells are read by their index."""
        if target not in self.output.maps:
            raise TeacherError(
                f"the teacher gives no map {target!s}, which a method reads; it gives "
                f"{sorted(self.output.maps)}: add it to TeacherOutput.maps, or dump for other "
                "--methods"
            )
        found, grid = self.output.maps[target], self.shapes.grid_of(target)
        if found.shape[2:] != grid.shape:
            raise TeacherError(
                f"the teacher's map {target!s} is {' x '.join(map(str, found.shape[2:]))} cells, "
                f"its info.shapes.grid {' x '.join(map(str, grid.shape))}: they must be the same"
            )
        return found[self.b].float().cpu()

    def _at_points(self, target: Target) -> Float[Tensor, "m 9 c"]:
        map_, boxes = self._map(target), self.frame.boxes.values
        return at_box_points(map_[None], boxes[None], self.shapes.grid_of(target))[0]

    def _box_code(self) -> Float[Tensor, "m code"]:
        """Codes of the teacher's boxes, relative to the cells of the true ones."""
        own = self.shapes.grid.cell_index(self.frame.boxes.values[:, :2])
        boxes = self.output.boxes[self.b, : len(own)].cpu().float()
        return encode_boxes_at(boxes, own, self.shapes.grid)

    def _listed(self, name: str) -> npt.NDArray[Any]:
        if name not in self.output.lists:
            raise TeacherError(
                f"the teacher gives no {name}, which a method reads; it gives "
                f"{sorted(self.output.lists)}: add it to TeacherOutput.lists, or dump for other "
                "--methods"
            )
        return self.output.lists[name][self.b].cpu().numpy()


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
