"""Detection loss of the centre head (CenterPoint as mmdet3d v1.0.0rc4 computes it).

Two differences, neither of which moves the value on one device: normalisers are not averaged over
ranks, and the 500 objects a task are no cap here. The logits are left untouched.
"""

import torch
from jaxtyping import Bool, Float, Float32, Int64
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat
from torch import Tensor

from frames.box_code import CODE_SIZE, encode_boxes
from frames.boxes import BoxBatch
from frames.grid import BEVGrid
from frames.heatmap import center_heatmap, on_grid
from nets.center_head import CenterMaps, codes_at

PROBABILITY_CLIP = 1e-4


class CenterLossConfig(BaseModel):
    """Weights of the detection loss.

    Attributes:
        heatmap: Weight of the heatmap term.
        box: Weight of the box term (mmdet3d CenterPoint's loss_bbox).
        code: Weight of each entry of the box code; velocity 0.2 as mmdet3d and BEVDet have it,
            BEVDepth takes 0.5 or 1.0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    heatmap: NonNegativeFloat = 1.0
    box: NonNegativeFloat = 0.25
    code: tuple[NonNegativeFloat, ...] = Field(
        (*[1.0] * 8, 0.2, 0.2), min_length=CODE_SIZE, max_length=CODE_SIZE
    )


def center_loss(
    maps: CenterMaps, boxes: BoxBatch, grid: BEVGrid, config: CenterLossConfig
) -> dict[str, Tensor]:
    """Weighted terms "heatmap" and "box", scalars summed over tasks.

    Objects off the grid count nowhere; without any object the box term is 0 and the heatmap term
    finite.
    """
    target = center_heatmap(boxes, grid, maps.heatmap_logit.shape[1])
    heatmap = heatmap_loss(maps.heatmap_logit, target, task_peaks(target, maps.class_task))
    codes = codes_at(maps, boxes.labels, grid.cell_index(boxes.values[..., :2]))
    box = box_loss(
        codes,
        encode_boxes(boxes.values, grid),
        maps.class_task[boxes.labels],
        on_grid(boxes, grid),
        codes.new_tensor(config.code),
    )
    return {"heatmap": config.heatmap * heatmap, "box": config.box * box}


def task_peaks(
    heatmap: Float32[Tensor, "b classes h w"], class_task: Int64[Tensor, " classes"]
) -> Float32[Tensor, " classes"]:
    """For every class, how many cells of its task's heatmaps are exactly 1."""
    per_class = (heatmap == 1).sum((0, 2, 3)).float()
    return torch.zeros_like(per_class).index_add(0, class_task, per_class)[class_task]


def heatmap_loss(
    logit: Float32[Tensor, "b classes h w"],
    target: Float32[Tensor, "b classes h w"],
    peaks: Float32[Tensor, " classes"],
) -> Float32[Tensor, ""]:
    """Penalty-reduced focal loss, each class divided by the peaks of its task (at least 1).

    Args:
        logit: Before the sigmoid.
        target: In [0, 1]; only cells equal to 1 count as positive.
        peaks: ``task_peaks`` of the heatmap that normalises, usually the target itself.
    """
    return over_peaks(penalty_reduced_focal(logit, target).sum((0, 2, 3)), peaks)


def over_peaks(
    per_class: Float[Tensor, " classes"], peaks: Float[Tensor, " classes"]
) -> Float[Tensor, ""]:
    """Sum over classes, each divided by the peaks of its task (at least 1)."""
    return (per_class / (peaks.clamp(min=1) + torch.finfo(torch.float32).eps)).sum()


def penalty_reduced_focal(
    logit: Float[Tensor, "*n"], target: Float[Tensor, "*n"]
) -> Float[Tensor, "*n"]:
    """Focal loss of each cell and class; only a target of exactly 1 is positive."""
    prob = logit.sigmoid().clamp(PROBABILITY_CLIP, 1 - PROBABILITY_CLIP)
    positive = -(prob + 1e-12).log() * (1 - prob) ** 2 * (target == 1)
    return positive - (1 - prob + 1e-12).log() * prob**2 * (1 - target) ** 4


def box_loss(
    code: Float32[Tensor, "b m 10"],
    target: Float32[Tensor, "b m 10"],
    task: Int64[Tensor, "b m"],
    valid: Bool[Tensor, "b m"],
    weights: Float32[Tensor, "10"],
) -> Float32[Tensor, ""]:
    """Weighted L1 of the objects' codes, averaged over each task's objects, summed over tasks.

    Args:
        code: Predicted, at each object's own cell.
        target: Encoded boxes.
        task: Of each object.
        valid: False on padding and off the grid; such objects add nothing.
        weights: Of the code's entries.
    """
    distance = (weights * (code - target).abs()).sum(-1)[valid]
    count = torch.bincount(task[valid], minlength=1)
    return (distance / count[task[valid]]).sum()
