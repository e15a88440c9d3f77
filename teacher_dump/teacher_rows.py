"""What a teacher says of frames, read at the planned places."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from frames.anchor_assign import positive_anchors
from frames.augment import BevAugment
from frames.box_code import encode_boxes_at
from frames.boxes import CENTRE, SIZE, VELOCITY, YAW, BoxBatch, Boxes3D
from frames.cell_masks import CellMask, anchors_of, coarse_foreground_cells, foreground_cells
from frames.frame import Frame
from frames.grid import BEVGrid
from nets.box_features import at_box_points, relation
from store.plan import TeacherShapes
from store.rows import RowValues
from store.schema import CELL_PLACES, NO_BOX, ArraySpec, Places, Target
from teacher_dump.errors import TeacherError
from teacher_dump.found_boxes import detection_arrays
from teacher_dump.protocol import FoundBoxes, Teacher, TeacherInfo, TeacherOutput
from teacher_dump.pseudo_labels import with_pseudo_labels


def teacher_rows(
    teacher: Teacher,
    frames: Sequence[Frame],
    arrays: Sequence[ArraySpec],
    masks: Sequence[CellMask],
    augments: Sequence[BevAugment] | None = None,
) -> Iterator[RowValues]:
    """Run the teacher on a batch and read its output at the planned places.

    Args:
        teacher: Frozen.
        frames: As the data set has them; without labels, they get pseudo labels.
        arrays: What to read.
        masks: Which cells, for arrays at cells.
        augments: How the teacher is to see each frame; None: as it is.

    Raises:
        TeacherError: It does not give what is planned.
    """
    frames = with_pseudo_labels(teacher, frames)
    augments = augments or [BevAugment.identity()] * len(frames)
    truths = [a.boxes3d(frame.boxes) for a, frame in zip(augments, frames, strict=True)]
    with torch.inference_mode():
        output = teacher(frames, BoxBatch.pad(truths), augments)
        found = _found(output, teacher.info) if _reads(arrays, Places.DETECTIONS) else None
    shapes = teacher.info.shapes
    for b, (frame, gt) in enumerate(zip(frames, truths, strict=True)):
        cells = {
            places: cells_at(places, gt, frame.token, shapes.grid, masks)
            for places in CELL_PLACES
            if _reads(arrays, places)
        }
        reading = _Reading(output, shapes, b, gt.values, cells)
        ready = _box_arrays(output, b, len(gt))
        if _reads(arrays, Places.ANCHORS):
            ready |= _anchor_arrays(output, b, gt, masks)
        if found is not None:
            ready |= detection_arrays(found[b], gt)
        ready |= {places.index_array: at.numpy().astype(np.int32) for places, at in cells.items()}
        values = {
            spec.name: ready[spec.name] if spec.name in ready else reading.array(spec)
            for spec in arrays
        }
        yield RowValues(token=frame.token, gt=gt, arrays=values)


def _reads(arrays: Sequence[ArraySpec], places: Places) -> bool:
    return any(spec.places is places for spec in arrays)


def _found(output: TeacherOutput, info: TeacherInfo) -> Sequence[FoundBoxes]:
    """The teacher's detections, as many as it said."""
    if output.found is None:
        raise TeacherError(
            "the teacher tells no detections, which a method reads: fill TeacherOutput.found, or "
            "dump for other --methods"
        )
    most = info.shapes.detections
    found = output.found()
    if longest := max((len(own.scores) for own in found if len(own.scores) > most), default=0):
        raise TeacherError(
            f"the teacher tells {longest} detections of a frame; its info.shapes.detections says "
            f"{most} at most: tell the best, or say more there"
        )
    return found


def cells_at(
    places: Places, gt: Boxes3D, token: str, grid: BEVGrid, masks: Sequence[CellMask]
) -> Int64[Tensor, " k"]:
    """The foreground cells of a frame, on the grid or at half its resolution."""
    cells = foreground_cells if places is Places.CELLS else coarse_foreground_cells
    return cells(gt, grid, masks, token)


@dataclass(frozen=True, slots=True)
class _Reading:
    """One frame of a teacher's output, to be read at the places of an array.

    What is read is a copy: the teacher may use its tensors again for the next batch. Places are
    read where the teacher's tensors are, so that no whole map leaves its GPU for them.
    """

    output: TeacherOutput
    shapes: TeacherShapes
    b: int
    boxes: Float[Tensor, "m 9"]
    cells: dict[Places, Int64[Tensor, " k"]]

    def array(self, spec: ArraySpec) -> npt.NDArray[Any]:
        """The array's values, places first.

        Raises:
            TeacherError: The teacher does not give it.
        """
        target = spec.target
        if spec.places is Places.BOXES and target is Target.BOX_CODE:
            return self._box_code().numpy()
        if target is Target.RELATION:
            return _numpy(relation(self._at_points(Target.BEV_HIGH)))
        if spec.places is Places.POINTS:
            return _numpy(self._at_points(target))
        map_ = self._map(target)
        if spec.places in CELL_PLACES:
            return _numpy(map_.flatten(1)[:, self.cells[spec.places].to(map_.device)].T)
        return _numpy(map_)

    def _map(self, target: Target) -> Float[Tensor, "c h w"]:
        """One of the teacher's maps, held against its own grid: cells are read by their index."""
        if target is Target.ANCHOR_LOGIT and self.output.anchors is not None:
            logit = self.output.anchors.logit[self.b]
            return logit.view(*self.shapes.grid.shape, -1).movedim(2, 0)
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
        return found[self.b]

    def _at_points(self, target: Target) -> Float[Tensor, "m 9 c"]:
        map_ = self._map(target)
        boxes = self.boxes.to(map_.device)
        return at_box_points(map_[None], boxes[None], self.shapes.grid_of(target))[0]

    def _box_code(self) -> Float[Tensor, "m _"]:
        """Codes of the teacher's boxes, relative to the cells of the true ones."""
        if self.output.codes is not None:
            return self.output.codes[self.b, : len(self.boxes)].float().cpu()
        own = self.shapes.grid.cell_index(self.boxes[:, :2])
        boxes = self.output.boxes[self.b, : len(own)].cpu().float()
        return encode_boxes_at(boxes, own, self.shapes.grid)


def _anchor_arrays(
    output: TeacherOutput, b: int, gt: Boxes3D, masks: Sequence[CellMask]
) -> dict[str, npt.NDArray[Any]]:
    """The teacher's boxes at the positive anchors of a frame."""
    anchors = anchors_of(masks)
    assert anchors is not None, "a plan with values at anchors has their mask"
    if output.anchors is None:
        raise TeacherError(
            "the teacher gives no anchors, which a method reads: fill TeacherOutput.anchors, or "
            "dump for other --methods"
        )
    index, owner = positive_anchors(anchors, gt)
    at = index.to(output.anchors.box.device)
    label = gt.labels[owner].to(at.device)
    return {
        "anchors/index": index.numpy().astype(np.int32),
        "anchors/object": owner.numpy().astype(np.int32),
        "anchors/box": _numpy(output.anchors.box[b, at]),
        "anchors/direction": output.anchors.direction[b, at].cpu().numpy().astype(np.uint8),
        "anchors/score": _numpy(output.anchors.logit[b, at, label].sigmoid()),
    }


def _numpy(values: Tensor) -> npt.NDArray[Any]:
    """A copy on the CPU, as float32."""
    copied = values.to("cpu", torch.float32, copy=True, memory_format=torch.contiguous_format)
    array: npt.NDArray[Any] = copied.numpy()
    return array


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
