"""What methods on an anchor head read: at positive anchors, and at cells with all their anchors.

Axes: B batch, N positive anchors of the batch, Q cells (padded), A anchors of a cell, C classes.
"""

import math
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from frames.anchors import BOX_CODE, AnchorConfig
from frames.boxes import BoxBatch
from frames.cell_masks import AnchorMask, FootprintMask
from frames.geometry import in_footprints
from frames.grid import BEVGrid
from store.schema import Need, Places, Target
from student_train.methods.base import MethodContext, StudentMaps, TeacherTargets

# By how much the stored footprints are wider at least, metres: masks may vary without a new dump.
LEAST_MARGIN = 0.5
# Below any that a filter may ask for.
NO_SCORE = -1.0


def student_anchors(context: MethodContext) -> AnchorConfig:
    """The student's anchors."""
    assert context.anchors is not None, "the registry gives anchor heads to these methods"
    return context.anchors


def boxes_at_anchors(anchors: AnchorConfig | None) -> Need:
    """The teacher's box at every positive anchor."""
    assert anchors is not None, "the registry gives anchor heads to these methods"
    return Need(Target.ANCHORS, Places.ANCHORS, mask=AnchorMask(anchors=anchors))


def logits_at_positives(anchors: AnchorConfig | None) -> frozenset[Need]:
    """Its logits at the cells of positive anchors, and which these are."""
    need = boxes_at_anchors(anchors)
    return frozenset({need, Need(Target.ANCHOR_LOGIT, Places.CELLS, mask=need.mask)})


def around_objects(anchors: AnchorConfig | None) -> FootprintMask:
    """Cells in and about objects: all whose centre, or whose anchors' centre, is inside one.

    Anchors stand up to half a cell beside its centre along either axis (``frames/anchors.py``).
    """
    assert anchors is not None, "the registry gives anchor heads to these methods"
    return FootprintMask(margin=max(LEAST_MARGIN, anchors.grid.cell_size / math.sqrt(2)))


def logits_around_objects(anchors: AnchorConfig | None) -> frozenset[Need]:
    """Its logits at the cells in and about objects."""
    mask = around_objects(anchors)
    return frozenset({Need(Target.ANCHOR_LOGIT, Places.CELLS, mask=mask)})


@dataclass(frozen=True, slots=True)
class Positives:
    """All positive anchors of a batch.

    Attributes:
        frame: Of the batch.
        object: The ground-truth box of that frame it answers for.
        label: Class of that box.
        anchors: x y z l w h yaw.
        code: The student's.
        teacher: The teacher's box.
        truth: The ground-truth box.
        score: The teacher's, for the box's class.
    """

    frame: Int64[Tensor, " n"]
    object: Int64[Tensor, " n"]
    label: Int64[Tensor, " n"]
    anchors: Float[Tensor, "n 7"]
    code: Float[Tensor, "n 7"]
    teacher: Float[Tensor, "n 7"]
    truth: Float[Tensor, "n 7"]
    score: Float[Tensor, " n"]

    def where(self, chosen: Bool[Tensor, " n"]) -> "Positives":
        """Some of them."""
        return Positives(*(getattr(self, f.name)[chosen] for f in fields(self)))


def read_positives(
    student: StudentMaps, targets: TeacherTargets, boxes: BoxBatch, table: Float[Tensor, "a 7"]
) -> Positives:
    """Student, teacher and truth at the positive anchors.

    Args:
        student: Its anchor maps.
        targets: With the teacher's anchors.
        boxes: Ground truth.
        table: All anchors.
    """
    given = targets.anchors
    assert given is not None, "the loader gives anchors to a method that needs them"
    frame = given.valid.nonzero()[:, 0]
    index, owner = given.index[given.valid], given.object[given.valid]
    return Positives(
        frame=frame,
        object=owner,
        label=boxes.labels[frame, owner],
        anchors=table[index],
        code=student.anchors.code[frame, index].float(),
        teacher=given.box[given.valid],
        truth=boxes.values[frame, owner][:, :BOX_CODE],
        score=given.score[given.valid],
    )


def with_boxes_of_objects(found: Positives, targets: TeacherTargets) -> Positives:
    """The same with the teacher's surest box of each object at all its anchors.

    An object that the teacher does not answer has a score that no filter lets pass.
    """
    assert targets.boxes is not None, "the loader gives boxes to a method that needs them"
    assert targets.scores is not None, "and their scores"
    assert targets.answered is not None, "and whether there is one"
    at = (found.frame, found.object)
    answered = targets.answered[at]
    # Where there is none, zeros stand for the box, of which there is no logarithm.
    boxes = torch.where(answered[:, None], targets.boxes[at][:, :BOX_CODE], found.truth)
    return replace(found, teacher=boxes, score=torch.where(answered, targets.scores[at], NO_SCORE))


def cells_of(
    targets: TeacherTargets, grid: BEVGrid
) -> tuple[Int64[Tensor, "b q"], Bool[Tensor, "b q"]]:
    """Flat indices of the cached cells, where the augmentation has put them; and which are none."""
    assert targets.cells is not None, "the loader gives cells to a method that needs them"
    assert targets.cell_valid is not None, "and which are padding"
    return grid.cell_index(targets.cells), targets.cell_valid


def in_positive_cells(
    cell: Int64[Tensor, "b q"], targets: TeacherTargets, anchors: AnchorConfig
) -> Bool[Tensor, "b q"]:
    """Which cells have a positive anchor."""
    given = targets.anchors
    assert given is not None, "the loader gives anchors to a method that needs them"
    own = torch.where(given.valid, given.index // anchors.per_cell, -1)
    return (cell[:, :, None] == own[:, None]).any(2)


def inside_objects(points: Float[Tensor, "b q 2"], boxes: BoxBatch) -> Bool[Tensor, "b q"]:
    """Which points (x, y), metres, lie in an object seen from above."""
    return (in_footprints(points, boxes.values) & boxes.valid[:, None]).any(2)


def among_top(logit: Float[Tensor, "b q ac"], count: int) -> Bool[Tensor, "b q"]:
    """The cells of a frame with the largest logits."""
    best = logit.amax(2)
    chosen = best.topk(min(count, best.shape[1]), dim=1).indices
    return torch.zeros_like(best, dtype=torch.bool).scatter(1, chosen, value=True)


def logits_at(
    student: StudentMaps, cell: Int64[Tensor, "b q"], anchors: AnchorConfig
) -> Float[Tensor, "b q a c"]:
    """The student's class logits at cells."""
    logit = student.anchors.logit.float()
    maps = logit.view(len(cell), anchors.grid.num_cells, anchors.per_cell, -1)
    frame = torch.arange(len(cell), device=cell.device)[:, None]
    chosen: Tensor = maps[frame, cell]
    return chosen
