"""Centre maps to detections: top cells, thresholds, circle suppression (CenterPoint, mmdet3d)."""

import torch
from jaxtyping import Bool, Float32, Int64
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from frames.box_code import decode_boxes
from frames.detections import Detections
from frames.grid import BEVGrid
from nets.center_head import CenterMaps, codes_at


class CenterDecodeConfig(BaseModel):
    """Which cells become detections; defaults are mmdet3d's for nuScenes.

    Attributes:
        score_threshold: Detections score above it.
        centre_min: Lowest centre x y z that is kept, metres.
        centre_max: Highest.
        circle_squared: Each task's threshold on the squared centre distance, square metres
            (CenterPoint issue 42: the listed numbers are squares). Nearer ones are suppressed.
        candidates: Cells looked at in each task.
        kept: Detections kept in each task.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    score_threshold: float = Field(0.1, ge=0, lt=1)
    centre_min: tuple[float, float, float] = (-61.2, -61.2, -10.0)
    centre_max: tuple[float, float, float] = (61.2, 61.2, 10.0)
    circle_squared: tuple[NonNegativeFloat, ...] = (4.0, 12.0, 10.0, 1.0, 0.85, 0.175)
    candidates: PositiveInt = 500
    kept: PositiveInt = 83


@torch.no_grad()
def decode(maps: CenterMaps, grid: BEVGrid, config: CenterDecodeConfig) -> list[Detections]:
    """Detections of each frame, best first, on the device of the maps.

    Raises:
        ValueError: If there is not one circle threshold a task.
    """
    tasks = maps.box_code.shape[1]
    if len(config.circle_squared) != tasks:
        raise ValueError(
            f"{len(config.circle_squared)} circle thresholds for a head of {tasks} tasks; give "
            "circle_squared one entry a task"
        )
    parts = [
        _decode_task(maps, task, squared, grid, config)
        for task, squared in enumerate(config.circle_squared)
    ]
    return [_merge(list(frame)) for frame in zip(*parts, strict=True)]


def circle_keep(centres: Float32[Tensor, "n 2"], squared: float, limit: int) -> Bool[Tensor, " n"]:
    """Greedy suppression by centre distance.

    Args:
        centres: x y in metres, best score first.
        squared: A centre this near (square metres) to a better one that is kept, is not kept.
        limit: Number after which no more are kept.
    """
    near = ((centres[:, None] - centres[None]).square().sum(-1) <= squared).cpu().numpy()
    keep = torch.zeros(len(centres), dtype=torch.bool)
    free = ~torch.zeros(len(centres), dtype=torch.bool).numpy()
    for index in range(len(centres)):
        if free[index]:
            keep[index] = True
            free &= ~near[index]
            limit -= 1
        if limit == 0:
            break
    return keep.to(centres.device)


def _decode_task(
    maps: CenterMaps, task: int, squared: float, grid: BEVGrid, config: CenterDecodeConfig
) -> list[Detections]:
    """One task's detections in each frame."""
    classes = (maps.class_task == task).nonzero().squeeze(1)
    scores, labels, cells = _top_cells(maps.heatmap_logit[:, classes], config.candidates)
    labels = classes[labels]
    boxes = decode_boxes(codes_at(maps, labels, cells), cells, grid)
    low, high = boxes.new_tensor(config.centre_min), boxes.new_tensor(config.centre_max)
    centre = boxes[..., :3]
    wanted = (scores > config.score_threshold) & ((centre >= low) & (centre <= high)).all(-1)
    frames = []
    for frame, mask in enumerate(wanted):
        candidates = boxes[frame, mask]
        keep = circle_keep(candidates[:, :2], squared, config.kept)
        frames.append(
            Detections(candidates[keep], labels[frame, mask][keep], scores[frame, mask][keep])
        )
    return frames


def _top_cells(
    logit: Float32[Tensor, "b classes h w"], count: int
) -> tuple[Float32[Tensor, "b k"], Int64[Tensor, "b k"], Int64[Tensor, "b k"]]:
    """Best scores, their classes and their flat cell indices."""
    cells = logit.shape[2] * logit.shape[3]
    flat = logit.flatten(1)
    top, index = flat.topk(min(count, flat.shape[1]))
    return top.sigmoid(), index // cells, index % cells


def _merge(tasks: list[Detections]) -> Detections:
    """All tasks' detections of one frame, best first."""
    scores, order = torch.cat([part.scores for part in tasks]).sort(descending=True, stable=True)
    boxes = torch.cat([part.boxes for part in tasks])[order]
    return Detections(boxes, torch.cat([part.labels for part in tasks])[order], scores)
