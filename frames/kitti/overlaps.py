"""Which labels and detections of a frame overlap, and how much: over all frames at once."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from frames.rotated_iou import bev_iou, bounds_meet, iou_3d

# Bounds the memory of the pairs looked at together; any number gives the same result.
_PAIRS_TOGETHER = 2_000_000

OverlapFunction = Callable[
    [Float64[np.ndarray, "p d"], Float64[np.ndarray, "p d"]], Float64[np.ndarray, " p"]
]


@dataclass(frozen=True, slots=True)
class Placed:
    """Boxes of all frames, one frame after the other.

    Attributes:
        boxes: In whatever form the overlap reads.
        frames: Index of each box's frame, ascending.
    """

    boxes: Float64[np.ndarray, "n d"]
    frames: Int64[np.ndarray, " n"]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Labels and detections that overlap; by label, and for one label in the detections' order.

    Attributes:
        labels: Index of the label, over all frames.
        detections: Index of the detection, over all frames.
        overlap: How much, in (0, 1].
    """

    labels: Int64[np.ndarray, " p"]
    detections: Int64[np.ndarray, " p"]
    overlap: Float64[np.ndarray, " p"]

    def above(self, least: float) -> "Pairs":
        """The pairs that overlap by more than this."""
        kept = self.overlap > least
        return Pairs(self.labels[kept], self.detections[kept], self.overlap[kept])


def overlapping_pairs(
    labels: Placed, detections: Placed, overlap: OverlapFunction, least: float
) -> Pairs:
    """Every label with every detection of its frame that it overlaps by more than ``least``."""
    starts = np.searchsorted(detections.frames, labels.frames, side="left")
    counts = np.searchsorted(detections.frames, labels.frames, side="right") - starts
    ends = counts.cumsum()
    found = []
    first = 0
    while first < len(counts):
        done = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + _PAIRS_TOGETHER, side="right")))
        some = counts[first:last]
        rows = np.repeat(np.arange(first, last), some)
        columns = np.arange(len(rows)) - np.repeat(ends[first:last] - some - done, some)
        columns += starts[rows]
        values = overlap(labels.boxes[rows], detections.boxes[columns])
        kept = values > least
        found.append(Pairs(rows[kept], columns[kept], values[kept]))
        first = last
    none = np.zeros(0, dtype=np.int64)
    return Pairs(
        np.concatenate([none, *(part.labels for part in found)]),
        np.concatenate([none, *(part.detections for part in found)]),
        np.concatenate([np.zeros(0), *(part.overlap for part in found)]),
    )


def image_overlap(
    labels: Float64[np.ndarray, "p 4"], detections: Float64[np.ndarray, "p 4"]
) -> Float64[np.ndarray, " p"]:
    """Intersection over union of left, top, right, bottom, pixels."""
    shared = _shared(labels, detections)
    union = _area(detections) + _area(labels) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def image_coverage(
    areas: Float64[np.ndarray, "p 4"], detections: Float64[np.ndarray, "p 4"]
) -> Float64[np.ndarray, " p"]:
    """Share of each detection that lies in the area, both left, top, right, bottom, pixels."""
    shared = _shared(areas, detections)
    return np.divide(shared, _area(detections), out=np.zeros_like(shared), where=shared > 0)


def bev_overlap(
    labels: Float64[np.ndarray, "p 7"], detections: Float64[np.ndarray, "p 7"]
) -> Float64[np.ndarray, " p"]:
    """Intersection over union of the footprints of x y z l w h yaw."""
    return _where_bounds_meet(bev_iou, labels, detections)


def volume_overlap(
    labels: Float64[np.ndarray, "p 7"], detections: Float64[np.ndarray, "p 7"]
) -> Float64[np.ndarray, " p"]:
    """Intersection over union of the volumes of x y z l w h yaw."""
    return _where_bounds_meet(iou_3d, labels, detections)


def _shared(
    first: Float64[np.ndarray, "p 4"], second: Float64[np.ndarray, "p 4"]
) -> Float64[np.ndarray, " p"]:
    sides = np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])
    area: np.ndarray = sides.clip(min=0).prod(axis=1)
    return area


def _area(boxes: Float64[np.ndarray, "p 4"]) -> Float64[np.ndarray, " p"]:
    area: np.ndarray = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return area


def _where_bounds_meet(
    iou: Callable[[Tensor, Tensor], Tensor],
    labels: Float64[np.ndarray, "p 7"],
    detections: Float64[np.ndarray, "p 7"],
) -> Float64[np.ndarray, " p"]:
    first, second = torch.from_numpy(labels), torch.from_numpy(detections)
    near = bounds_meet(first, second)
    found = torch.zeros(len(first), dtype=torch.float64)
    found[near] = iou(first[near], second[near])
    return found.numpy()
