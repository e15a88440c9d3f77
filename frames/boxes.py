"""3D boxes, one convention for the whole project.

A box is nine numbers: x y z l w h yaw vx vy. Ego frame (x forward, y left, z up), geometric
centre, metres, yaw counter-clockwise from +x in radians, velocity in metres a second. Readers
convert at the edge and nowhere else.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

BOX_SIZE = 9
CENTRE, SIZE, YAW, VELOCITY = slice(0, 3), slice(3, 6), 6, slice(7, 9)


@dataclass(frozen=True, slots=True)
class Boxes3D:
    """Boxes of one frame.

    Attributes:
        values: x y z l w h yaw vx vy.
        labels: Index into the data set's classes (``frames/detection_classes.py``).
    """

    values: Float32[Tensor, "n 9"]
    labels: Int64[Tensor, " n"]

    @classmethod
    def empty(cls) -> "Boxes3D":
        """No boxes."""
        return cls(torch.zeros(0, BOX_SIZE), torch.zeros(0, dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class BoxBatch:
    """Boxes of several frames, padded with zeros.

    Attributes:
        values: x y z l w h yaw vx vy.
        labels: Index into the data set's classes (``frames/detection_classes.py``).
        valid: False on padding.
    """

    values: Float32[Tensor, "b m 9"]
    labels: Int64[Tensor, "b m"]
    valid: Bool[Tensor, "b m"]

    @classmethod
    def pad(cls, frames: list[Boxes3D]) -> "BoxBatch":
        """Stack frames, padding each to the largest count (at least one slot)."""
        width = max([1, *(len(boxes) for boxes in frames)])
        values = torch.zeros(len(frames), width, BOX_SIZE)
        labels = torch.zeros(len(frames), width, dtype=torch.int64)
        valid = torch.zeros(len(frames), width, dtype=torch.bool)
        for row, boxes in enumerate(frames):
            values[row, : len(boxes)] = boxes.values
            labels[row, : len(boxes)] = boxes.labels
            valid[row, : len(boxes)] = True
        return cls(values, labels, valid)

    def frames(self, index: Int64[Tensor, " k"]) -> "BoxBatch":
        """The same of some frames of the batch."""
        return BoxBatch(self.values[index], self.labels[index], self.valid[index])

    def to(self, device: torch.device) -> "BoxBatch":
        """The same boxes on another device."""
        return BoxBatch(self.values.to(device), self.labels.to(device), self.valid.to(device))
