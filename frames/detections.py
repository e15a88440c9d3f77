"""What a detector says of one frame."""

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Detections:
    """Decoded boxes of one frame.

    Attributes:
        boxes: x y z l w h yaw vx vy, ego frame (see ``frames/boxes.py``).
        labels: Index into the data set's classes (``frames/detection_classes.py``).
        scores: In [0, 1], highest first.
    """

    boxes: Float32[Tensor, "n 9"]
    labels: Int64[Tensor, " n"]
    scores: Float32[Tensor, " n"]

    def cpu(self) -> "Detections":
        """The same detections on the CPU."""
        return Detections(self.boxes.cpu(), self.labels.cpu(), self.scores.cpu())

    @classmethod
    def empty(cls) -> "Detections":
        """No detections."""
        return cls(torch.zeros(0, 9), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
