"""Centre maps to detections: top cells, thresholds, circle suppression (CenterPoint, mmdet3d)."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Int64
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from frames.box_code import decode_boxes
from frames.detections import Detections
from frames.grid import BEVGrid
from nets.center_head import CenterMaps, codes_at
from nets.suppression import circle_keep


class CandidateConfig(BaseModel):
    """Which cells are looked at, whatever suppresses them; defaults are mmdet3d's for nuScenes.

    Attributes:
        score_threshold: Detections score above it.
        centre_min: Lowest centre x y z that is kept, metres.
        centre_max: Highest.
        candidates: Cells looked at in each task.
        kept: Detections kept in each task.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    score_threshold: float = Field(0.1, ge=0, lt=1)
    centre_min: tuple[float, float, float] = (-61.2, -61.2, -10.0)
    centre_max: tuple[float, float, float] = (61.2, 61.2, 10.0)
    candidates: PositiveInt = 500
    kept: PositiveInt = 83


class CenterDecodeConfig(CandidateConfig):
    """How CenterPoint suppresses.

    Attributes:
        circle_squared: Each task's threshold on the squared centre distance, square metres
            (CenterPoint issue 42: the listed numbers are squares). Nearer ones are suppressed.
    """

    circle_squared: tuple[NonNegativeFloat, ...] = (4.0, 12.0, 10.0, 1.0, 0.85, 0.175)


@dataclass(frozen=True, slots=True)
class Candidates:
    """The best cells of one task, best first.

    Attributes:
        boxes: Decoded there.
        labels: Index into ``DETECTION_CLASSES``.
        scores: After the sigmoid.
        cells: Flat index row * W + col.
        wanted: Whether score and centre are in the configured bounds.
    """

    boxes: Float32[Tensor, "b k 9"]
    labels: Int64[Tensor, "b k"]
    scores: Float32[Tensor, "b k"]
    cells: Int64[Tensor, "b k"]
    wanted: Bool[Tensor, "b k"]


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
    return [merge_tasks(list(frame)) for frame in zip(*parts, strict=True)]


def task_candidates(
    maps: CenterMaps, task: int, grid: BEVGrid, config: CandidateConfig
) -> Candidates:
    """Where a task's heatmaps are highest, and the boxes there."""
    classes = (maps.class_task == task).nonzero().squeeze(1)
    scores, labels, cells = _top_cells(maps.heatmap_logit[:, classes], config.candidates)
    labels = classes[labels]
    boxes = decode_boxes(codes_at(maps, labels, cells), cells, grid)
    low, high = boxes.new_tensor(config.centre_min), boxes.new_tensor(config.centre_max)
    centre = boxes[..., :3]
    wanted = (scores > config.score_threshold) & ((centre >= low) & (centre <= high)).all(-1)
    return Candidates(boxes, labels, scores, cells, wanted)


def merge_tasks(tasks: list[Detections]) -> Detections:
    """All tasks' detections of one frame, with their cells, best first."""
    scores, order = torch.cat([part.scores for part in tasks]).sort(descending=True, stable=True)
    boxes = torch.cat([part.boxes for part in tasks])[order]
    labels = torch.cat([part.labels for part in tasks])[order]
    cells = torch.cat([part.cells for part in tasks if part.cells is not None])[order]
    return Detections(boxes, labels, scores, cells)


def _decode_task(
    maps: CenterMaps, task: int, squared: float, grid: BEVGrid, config: CenterDecodeConfig
) -> list[Detections]:
    """One task's detections in each frame."""
    found = task_candidates(maps, task, grid, config)
    frames = []
    for frame, mask in enumerate(found.wanted):
        boxes = found.boxes[frame, mask]
        keep = circle_keep(boxes[:, :2], squared, config.kept)
        labels, scores = found.labels[frame, mask], found.scores[frame, mask]
        cells = found.cells[frame, mask]
        frames.append(Detections(boxes[keep], labels[keep], scores[keep], cells[keep]))
    return frames


def _top_cells(
    logit: Float32[Tensor, "b classes h w"], count: int
) -> tuple[Float32[Tensor, "b k"], Int64[Tensor, "b k"], Int64[Tensor, "b k"]]:
    """Best scores, their classes and their flat cell indices."""
    cells = logit.shape[2] * logit.shape[3]
    flat = logit.flatten(1)
    top, index = flat.topk(min(count, flat.shape[1]))
    return top.sigmoid(), index // cells, index % cells
