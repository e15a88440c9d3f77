"""Maps of an IoU-aware centre head to detections (UniDistill; docs/unidistill.md)."""

import torch
from jaxtyping import Float32
from pydantic import Field, PositiveInt
from torch import Tensor

from frames.boxes import SIZE
from frames.detections import Detections
from frames.grid import BEVGrid
from nets.center_decode import CandidateConfig, Candidates, merge_tasks, task_candidates
from nets.center_head import CenterMaps
from nets.iou_aware_loss import IOU_CHANNEL, SIZE_BOUNDS
from nets.suppression import rotated_keep


class IouAwareDecodeConfig(CandidateConfig):
    """Which cells become detections; defaults are UniDistill's.

    Attributes:
        iou_power: Share p of the said IoU in the order of suppression: score^(1-p) IoU^p.
        overlap: BEV IoU above which the better of two boxes of a task suppresses the other.
    """

    candidates: PositiveInt = 1500
    kept: PositiveInt = 100
    iou_power: float = Field(0.65, ge=0, le=1)
    overlap: float = Field(0.1, gt=0, le=1)


@torch.no_grad()
def decode_iou_aware(
    maps: CenterMaps, grid: BEVGrid, config: IouAwareDecodeConfig
) -> list[Detections]:
    """Detections of each frame, best heatmap score first, on the device of the maps."""
    parts = [_decode_task(maps, task, grid, config) for task in range(maps.box_code.shape[1])]
    return [merge_tasks(list(frame)) for frame in zip(*parts, strict=True)]


def _decode_task(
    maps: CenterMaps, task: int, grid: BEVGrid, config: IouAwareDecodeConfig
) -> list[Detections]:
    """One task's detections in each frame."""
    found = task_candidates(maps, task, grid, config)
    said = maps.box_code[:, task, IOU_CHANNEL].flatten(1).gather(1, found.cells)
    order = suppression_scores(found.scores, said, config.iou_power)
    return [_suppress(found, order[frame], frame, config) for frame in range(len(order))]


def suppression_scores(
    scores: Float32[Tensor, "*n"], said: Float32[Tensor, "*n"], power: float
) -> Float32[Tensor, "*n"]:
    """By what suppression orders boxes.

    Args:
        scores: Of the heatmap, in [0, 1].
        said: The IoU channel, 2 IoU - 1; what lies outside [-1, 1] is cut.
        power: Share of the IoU.
    """
    iou = (said / 2 + 0.5).clamp(0, 1)
    return scores ** (1 - power) * iou**power


def _suppress(
    found: Candidates, order: Float32[Tensor, " k"], frame: int, config: IouAwareDecodeConfig
) -> Detections:
    wanted = found.wanted[frame].nonzero().squeeze(1)
    wanted = wanted[order[wanted].argsort(descending=True, stable=True)]
    boxes = found.boxes[frame, wanted]
    boxes[:, SIZE] = boxes[:, SIZE].clamp(*SIZE_BOUNDS)
    keep = rotated_keep(boxes, config.overlap, config.kept)
    kept = wanted[keep]
    own = (values[frame, kept] for values in (found.labels, found.scores, found.cells))
    return Detections(boxes[keep], *own)
