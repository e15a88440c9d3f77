"""STXD's response distillation: follow the teacher's detections, the good ones more.

RD (the authors' slides) is the sum over the student's predictions j of
q_i (|b_i - b~_j|_1 + KL(c_i || c~_j)), i being the teacher's prediction matched with j, and
q = c*^(1 - gamma) IoU^gamma its quality against ground truth. The paper's students have queries and
match them as sets; a centre head's answers have places, so that cells can be paired.

Axes: B batch, M boxes, N detections (padded), S cells of the student.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from frames.box_code import CODE_SIZE, decode_boxes, encode_boxes_at
from frames.boxes import YAW, BoxBatch
from frames.geometry import wrap_angle
from frames.grid import BEVGrid
from frames.heatmap import CENTER_HEAD, on_grid
from frames.rotated_iou import bev_iou, iou_3d
from nets.center_head import CenterMaps, codes_at
from store.schema import MOST_FOUND, Need, Places, Target
from student_train.methods.base import DetectionTargets, TeacherTargets

# The released detectors' probabilities, as those of a focal loss, are kept so far from 0 and 1.
LEAST_PROBABILITY = 1e-4
# Of the matching cost (BEVDistill): the first eight entries of a code, velocity left out.
COST_CODE, COST_BOX = slice(0, 8), 0.25


CodeWeights = Annotated[
    tuple[NonNegativeFloat, ...], Field(min_length=CODE_SIZE, max_length=CODE_SIZE)
]


class ResponseForm(BaseModel):
    """What the slides leave open of RD.

    Attributes:
        gamma: Share of the IoU in the quality, against the score.
        iou: Of volumes, or of footprints. Whose object a detection is, volumes decide.
        pairs: Which of the student's answers follows what of the teacher's. That at the centre cell
            of the true box the box's best detection, or what the teacher says at the same cell;
            that at the cell of a detection's own centre this detection; or those found by Hungarian
            matching among the student's best cells.
        top: So many of a frame's stored detections count, best first: of those above the teacher's
            own score threshold. Without effect on ``same_cell``.
        cells: So many of the student's cells are matched with, by ``hungarian`` alone.
        space: What the boxes' distance is of: box codes, or metres and radians.
        code: Weight of each entry of the box code. None: the method takes those of the student's
            own detection loss.
        classes: Sum over the classes of Bernoulli divergences of the probabilities, as heads have
            sigmoids; divergence of softmaxes over the classes; or cross-entropies.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    gamma: float = Field(0.5, ge=0, le=1)
    iou: Literal["3d", "bev"] = "3d"
    pairs: Literal["object", "same_cell", "cell", "hungarian"] = "object"
    top: PositiveInt = Field(50, le=MOST_FOUND)
    cells: PositiveInt = 300
    space: Literal["code", "metric"] = "code"
    code: CodeWeights | None = None
    classes: Literal["bernoulli", "softmax", "cross_entropy"] = "bernoulli"

    @property
    def needs(self) -> frozenset[Need]:
        """What of the teacher is paired."""
        if self.pairs == "same_cell":
            at_cells = Need(Target.HEATMAP_LOGIT, Places.CELLS)
            return frozenset({Need(Target.BOX_CODE, Places.BOXES), at_cells})
        return frozenset({Need(Target.DETECTIONS, Places.DETECTIONS)})

    def for_student(self, weights: Sequence[float]) -> "ResponseForm":
        """The same with the code weights of a student's detection loss, where it has none."""
        return self if self.code else self.model_copy(update={"code": tuple(weights)})


@dataclass(frozen=True, slots=True)
class Pairs:
    """Detections, each with the student's cell that is to follow it.

    Attributes:
        box: The detection's.
        probability: The detection's.
        label: Of whose task the student's box code is read.
        cell: The student's, flat index.
        weight: Quality; 0 where there is no pair.
    """

    box: Float[Tensor, "b n 9"]
    probability: Float[Tensor, "b n classes"]
    label: Int64[Tensor, "b n"]
    cell: Int64[Tensor, "b n"]
    weight: Float[Tensor, "b n"]


def response_loss(
    head: CenterMaps,
    found: DetectionTargets,
    boxes: BoxBatch,
    grid: BEVGrid,
    form: ResponseForm,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """RD, and the mean quality of the pairs that have any.

    Args:
        head: What the student says.
        found: The teacher's detections, no gradient.
        boxes: Ground truth, in whose order ``found.object`` counts.
        grid: Of the head.
        form: What the slides leave open, its code weights given.

    Returns:
        Summed over the pairs of a frame, mean over frames; 0 without pairs.
    """
    top = None if form.pairs == "same_cell" else form.top
    pairs = pair_up(head, _best(found, top), boxes, grid, form)
    flat = head.heatmap_logit.flatten(2)
    logit = flat.gather(2, pairs.cell[:, None].expand(-1, flat.shape[1], -1)).mT
    code = codes_at(head, pairs.label, pairs.cell)
    each = box_distance(code, pairs, grid, form) + class_divergence(logit, pairs.probability, form)
    weight = pairs.weight
    counts = weight > 0
    quality = weight.sum() / counts.sum().clamp(min=1)
    return torch.where(counts, weight * each, 0.0).sum() / len(weight), quality


def centre_answers(targets: TeacherTargets, boxes: BoxBatch, grid: BEVGrid) -> DetectionTargets:
    """What the teacher says at each true box's centre cell, as detections of these boxes.

    Its probabilities there are those at the nearest of the stored cells with an object's centre:
    flips, turns, scales and shifts of both keep what is nearest.
    """
    assert targets.codes is not None, "the loader gives codes to a method that needs them"
    assert targets.coded is not None, "and whether there is one"
    assert targets.cells is not None, "and cells"
    xy = boxes.values[..., :2]
    gap = torch.cdist(xy, targets.cells, compute_mode="donot_use_mm_for_euclid_dist")
    # A centre that was carried off the student's grid has no weight any more: it still is its
    # object's own, which another object's may not stand for.
    centre = targets.cell_weight[CENTER_HEAD] >= 1
    candidate = centre | ~grid.contains(targets.cells)
    distance, nearest = gap.masked_fill(~candidate[:, None], torch.inf).min(2)
    answered = centre.gather(1, nearest) & (distance < grid.cell_size)
    logit = targets.at_cells[Target.HEATMAP_LOGIT].float()
    probability = logit.gather(1, nearest[..., None].expand(-1, -1, logit.shape[2])).sigmoid()
    box = decode_boxes(targets.codes.float(), grid.cell_index(xy), grid)
    order = torch.arange(xy.shape[1], device=xy.device)
    return DetectionTargets(
        box=box,
        score=probability.amax(2),
        probability=probability,
        object=order.expand(len(xy), -1),
        iou=iou_3d(box, boxes.values),
        valid=targets.coded & boxes.valid & answered,
    )


def qualities(found: DetectionTargets, boxes: BoxBatch, form: ResponseForm) -> Float[Tensor, "b n"]:
    """How good each detection is: c*^(1 - gamma) IoU^gamma.

    c* is the teacher's probability of its object's class; a detection without an object has its
    largest one, and an IoU of 0. 0 on padding.
    """
    has_object, owner = found.object >= 0, found.object.clamp(min=0)
    label = boxes.labels.gather(1, owner)
    own = found.probability.gather(2, label[..., None]).squeeze(2)
    confidence = torch.where(has_object, own, found.probability.amax(2))
    iou = found.iou
    if form.iou == "bev":
        truth = boxes.values.gather(1, owner[..., None].expand_as(found.box))
        iou = torch.where(has_object, bev_iou(found.box, truth), 0.0)
    return confidence ** (1 - form.gamma) * iou**form.gamma * found.valid


def pair_up(
    head: CenterMaps,
    found: DetectionTargets,
    boxes: BoxBatch,
    grid: BEVGrid,
    form: ResponseForm,
) -> Pairs:
    """The pairs of a batch, as the form wants them."""
    quality = qualities(found, boxes, form)
    if form.pairs in ("object", "same_cell"):
        return _at_objects(found, quality, boxes, grid)
    own = boxes.labels.gather(1, found.object.clamp(min=0))
    label = torch.where(found.object >= 0, own, found.probability.argmax(2))
    counts = found.valid & grid.contains(found.box[..., :2])
    cell = grid.cell_index(found.box[..., :2])
    at_own = Pairs(found.box, found.probability, label, cell, quality * counts)
    return at_own if form.pairs == "cell" else _matched(head, at_own, counts, grid, form)


def _best(found: DetectionTargets, top: int | None) -> DetectionTargets:
    """The first ones (None: all), without gradient; padding where no frame has any."""
    values = (found.box, found.score, found.probability, found.object, found.iou, found.valid)
    if not found.valid.shape[1]:
        return DetectionTargets(*(v.new_zeros(len(v), 1, *v.shape[2:]) for v in values))
    return DetectionTargets(*(value.detach()[:, :top] for value in values))


def _at_objects(
    found: DetectionTargets, quality: Float[Tensor, "b n"], boxes: BoxBatch, grid: BEVGrid
) -> Pairs:
    """For each true box the best of its detections, at the box's centre cell."""
    count = boxes.labels.shape[1]
    owned = found.object[:, :, None] == torch.arange(count, device=found.object.device)
    weight, best = torch.where(owned, quality[:, :, None], 0.0).max(1)

    def of_best(values: Tensor) -> Tensor:
        return values.gather(1, best[..., None].expand(-1, -1, values.shape[2]))

    return Pairs(
        box=of_best(found.box),
        probability=of_best(found.probability),
        label=boxes.labels,
        cell=grid.cell_index(boxes.values[..., :2]),
        weight=weight * on_grid(boxes, grid),
    )


@torch.no_grad()
def _matched(
    head: CenterMaps, pairs: Pairs, counts: Bool[Tensor, "b n"], grid: BEVGrid, form: ResponseForm
) -> Pairs:
    """The same detections, each with one of the student's best cells: least cost in all."""
    best = head.heatmap_logit.amax(1).flatten(1)
    cells = best.topk(min(form.cells, best.shape[1])).indices
    cell, weight = torch.zeros_like(pairs.cell), torch.zeros_like(pairs.weight)
    for b, own in enumerate(cells):
        real = counts[b].nonzero().squeeze(1)
        cost = matching_cost(head, pairs, (b, real, own), grid)
        rows, cols = (torch.from_numpy(at) for at in linear_sum_assignment(cost.cpu().numpy()))
        matched = real[rows.to(real.device)]
        cell[b, matched] = own[cols.to(own.device)]
        weight[b, matched] = pairs.weight[b, matched]
    return Pairs(pairs.box, pairs.probability, pairs.label, cell, weight)


def matching_cost(
    head: CenterMaps,
    pairs: Pairs,
    at: tuple[int, Int64[Tensor, " n"], Int64[Tensor, " s"]],
    grid: BEVGrid,
) -> Float[Tensor, "n s"]:
    """What it costs a detection to be followed at a cell: class entropy, a quarter of the code.

    Args:
        head: What the student says.
        pairs: The detections.
        at: Which frame, which of its detections, which cells.
        grid: Of the head.
    """
    b, real, cells = at
    shape = (len(real), len(cells))
    cell, label = cells.expand(shape), pairs.label[b, real, None].expand(shape)
    logit = head.heatmap_logit[b].flatten(1)[:, cells].T.expand(*shape, -1)
    target = pairs.probability[b, real, None].expand_as(logit)
    entropy = F.binary_cross_entropy_with_logits(logit, target, reduction="none").sum(-1)
    code = head.box_code[b].flatten(2)[head.class_task[label], :CODE_SIZE, cell]
    theirs = encode_boxes_at(pairs.box[b, real, None].expand(*shape, -1), cell, grid)
    return entropy + COST_BOX * (code - theirs)[..., COST_CODE].abs().sum(-1)


def box_distance(
    code: Float[Tensor, "b n 10"], pairs: Pairs, grid: BEVGrid, form: ResponseForm
) -> Float[Tensor, "b n"]:
    """Weighted absolute difference of the student's boxes from the detections', summed.

    Args:
        code: The student's, at the cells of the pairs.
        pairs: The detections.
        grid: Of the cells.
        form: Space and weights; in metres and radians the yaw has the weight of its sine.
    """
    assert form.code is not None, "ResponseForm.for_student gives them"
    weight = code.new_tensor(form.code)
    if form.space == "code":
        gap = code - encode_boxes_at(pairs.box, pairs.cell, grid)
        return (weight * gap.abs()).sum(-1)
    gap = decode_boxes(code, pairs.cell, grid) - pairs.box
    turn = wrap_angle(gap[..., YAW : YAW + 1])
    gap = torch.cat([gap[..., :YAW], turn, gap[..., YAW + 1 :]], -1)
    return (torch.cat([weight[: YAW + 1], weight[YAW + 2 :]]) * gap.abs()).sum(-1)


def class_divergence(
    logit: Float[Tensor, "b n classes"],
    probability: Float[Tensor, "b n classes"],
    form: ResponseForm,
) -> Float[Tensor, "b n"]:
    """How far the student's classes are from the detections', summed over the classes.

    Args:
        logit: The student's.
        probability: The teacher's, after its sigmoid.
        form: Which divergence.
    """
    if form.classes == "softmax":
        sure = probability.clamp(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        theirs = sure.logit().log_softmax(-1)
        return (theirs.exp() * (theirs - logit.log_softmax(-1))).sum(-1)
    entropy = F.binary_cross_entropy_with_logits(logit, probability, reduction="none")
    if form.classes == "cross_entropy":
        return entropy.sum(-1)
    rest = 1 - probability
    own = torch.xlogy(probability, probability) + torch.xlogy(rest, rest)
    return (entropy + own).sum(-1)
