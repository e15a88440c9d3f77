"""Detection loss of UniDistill's IoU-aware centre head (docs/unidistill.md).

Facts of Megvii's ``center_head_iou_aware.py`` and ``losses/det3d.py`` (CVPR2023-UniDistill, commit
8bbab40). Normalisers are not averaged over ranks.

Axes: b frame, k positive cell of the batch, t task.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float32
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from frames.anchor_assign import nearest_overlap
from frames.box_code import CODE_SIZE, HEIGHT, LOG_SIZE, OFFSET, SIN_COS, encode_boxes_at
from frames.boxes import CENTRE, SIZE, BoxBatch
from frames.grid import BEVGrid
from nets.center_head import CenterMaps
from nets.center_loss import PROBABILITY_CLIP
from nets.nearest_cells import nearest_cells

# The IoU of a task's box code: 2 IoU - 1.
IOU_CHANNEL = CODE_SIZE
# What Megvii's code keeps sums, lengths, volumes and logarithms from zero with.
COUNT_EPS, LENGTH_EPS, LOG_EPS = 1e-4, 1e-3, 1e-4
# Decoded edges are cut to these, metres.
SIZE_BOUNDS = (1e-3, 30.0)


class IouAwareLossConfig(BaseModel):
    """Weights of the detection loss; defaults are UniDistill's.

    Attributes:
        cells: Cells that answer for an object.
        positive: Factor on the heatmap's positive cells; the others have 1 minus it.
        code: Weight of each of the first ten entries of the box code.
        overlap: Factor on 1 - IoU of the boxes, axis-aligned.
        overlap_below: That term counts in a task only while its box term is below this.
        swapped_extents: Whether that IoU takes, as the released code does, heights for extents
            along y and widths for those along z.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cells: PositiveInt = 9
    positive: float = Field(0.25, ge=0, le=1)
    code: tuple[NonNegativeFloat, ...] = Field(
        (*[1.0] * 8, 0.2, 0.2), min_length=CODE_SIZE, max_length=CODE_SIZE
    )
    overlap: NonNegativeFloat = 5.0
    overlap_below: NonNegativeFloat = 1.0
    swapped_extents: bool = False


class IouAwareLoss(nn.Module):
    """Four terms, three of them weighted by learned uncertainties that all tasks share."""

    def __init__(self, config: IouAwareLossConfig) -> None:
        super().__init__()
        self.config = config
        # Of the heatmap, box and IoU terms.
        self.uncertainty = nn.Parameter(torch.ones(3))

    def forward(self, maps: CenterMaps, boxes: BoxBatch, grid: BEVGrid) -> dict[str, Tensor]:
        """Terms "heatmap", "box", "iou" and "overlap", scalars summed over tasks.

        A term L with the uncertainty p is L / (2 p^2) + ln(1 + p^2): without any object it does not
        vanish. Objects off the grid count nowhere.
        """
        found = task_losses(maps, boxes, grid, self.config)
        learned = zip((found.heatmap, found.box, found.iou), self.uncertainty, strict=True)
        heatmap, box, iou = ((0.5 / p**2 * loss + (1 + p**2).log()).sum() for loss, p in learned)
        counts = found.box.detach() < self.config.overlap_below
        overlap = self.config.overlap * (found.overlap * counts).sum()
        return {"heatmap": heatmap, "box": box, "iou": iou, "overlap": overlap}


@dataclass(frozen=True, slots=True)
class TaskLosses:
    """Each task's losses before they are weighted against each other.

    Attributes:
        heatmap: Focal loss of the class heatmaps.
        box: Weighted L1 of the box code, a mean over positive cells.
        iou: L1 of the said IoU, likewise.
        overlap: 1 - IoU of the boxes, likewise.
    """

    heatmap: Float32[Tensor, " t"]
    box: Float32[Tensor, " t"]
    iou: Float32[Tensor, " t"]
    overlap: Float32[Tensor, " t"]


def task_losses(
    maps: CenterMaps, boxes: BoxBatch, grid: BEVGrid, config: IouAwareLossConfig
) -> TaskLosses:
    """The four losses of every task."""
    cells = nearest_cells(boxes, grid, maps.class_task, config.cells)
    tasks = maps.box_code.shape[1]

    def per_task(values: Tensor) -> Tensor:
        return values.new_zeros(tasks).index_add(0, cells.task, values)

    said = maps.box_code.flatten(3)[cells.frame, cells.task, :, cells.cell]
    code, said_iou = said[:, :CODE_SIZE], said[:, IOU_CHANNEL]
    target = encode_boxes_at(boxes.values[cells.frame, cells.box], cells.cell, grid)
    found, wanted = (_decode(part, grid.cell_size) for part in (code, target))
    distance = (code.new_tensor(config.code) * (code - target).abs()).sum(-1)
    true_iou = nearest_overlap(wanted, found.detach())
    overlap = axis_aligned_iou(found, wanted, swapped=config.swapped_extents)
    count = per_task(torch.ones_like(said_iou))
    return TaskLosses(
        heatmap=focal_loss(maps, cells.heatmap(boxes, grid, len(maps.class_task)), config),
        box=per_task(distance) / (count + COUNT_EPS),
        iou=per_task((said_iou - (2 * true_iou - 1)).abs()) / (count + COUNT_EPS),
        overlap=per_task(1 - overlap) / count.clamp(min=1),
    )


def focal_loss(
    maps: CenterMaps,
    target: Float32[Tensor, "b classes h w"],
    config: IouAwareLossConfig,
) -> Float32[Tensor, " t"]:
    """Focal loss on binary targets, summed in each task, per positive cell if it has any."""
    prob = maps.heatmap_logit.sigmoid().clamp(PROBABILITY_CLIP, 1 - PROBABILITY_CLIP)
    positive = -config.positive * (1 - prob) ** 2 * prob.log()
    negative = -(1 - config.positive) * prob**2 * (1 - prob + LOG_EPS).log()
    per_class = torch.where(target == 1, positive, negative).sum((0, 2, 3))
    zeros = per_class.new_zeros(maps.box_code.shape[1])
    count = zeros.index_add(0, maps.class_task, target.sum((0, 2, 3)))
    return zeros.index_add(0, maps.class_task, per_class) / torch.where(count > 0, count, 1)


def axis_aligned_iou(
    first: Float32[Tensor, "k 7"], second: Float32[Tensor, "k 7"], *, swapped: bool
) -> Float32[Tensor, " k"]:
    """IoU of volumes with all headings taken for 0; never quite 0.

    Args:
        first: x y z l w h yaw.
        second: Likewise.
        swapped: Whether heights stand for extents along y and widths for those along z.
    """
    order = [0, 2, 1] if swapped else [0, 1, 2]
    half_a, half_b = (boxes[:, SIZE][:, order] / 2 for boxes in (first, second))
    high = torch.minimum(first[:, CENTRE] + half_a, second[:, CENTRE] + half_b)
    low = torch.maximum(first[:, CENTRE] - half_a, second[:, CENTRE] - half_b)
    shared = (high - low).clamp(min=LENGTH_EPS).prod(-1)
    volume_a, volume_b = ((2 * half).prod(-1).clamp(min=LENGTH_EPS) for half in (half_a, half_b))
    return (shared / (volume_a + volume_b - shared)).clamp(0, 1)


def _decode(code: Float32[Tensor, "k 10"], cell_size: float) -> Float32[Tensor, "k 7"]:
    """Boxes x y z l w h yaw about the corners of their cells, edges in ``SIZE_BOUNDS``."""
    # Before the exponential: where that is infinite, its gradient would not be a number.
    size = code[:, LOG_SIZE].clamp(*(math.log(bound) for bound in SIZE_BOUNDS)).exp()
    # No term teaches by this angle, and that of (0, 0) has no gradient.
    sine, cosine = code[:, SIN_COS].detach().unbind(1)
    yaw = torch.atan2(sine, cosine)[:, None]
    return torch.cat([code[:, OFFSET] * cell_size, code[:, HEIGHT], size, yaw], dim=-1)
