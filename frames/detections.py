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
        cells: Flat index row * W + col of the cell whose code each is, if the detector says so.
    """

    boxes: Float32[Tensor, "n 9"]
    labels: Int64[Tensor, " n"]
    scores: Float32[Tensor, " n"]
    cells: Int64[Tensor, " n"] | None = None

    def cpu(self) -> "Detections":
        """The same detections on the CPU."""
        cells = None if self.cells is None else self.cells.cpu()
        return Detections(self.boxes.cpu(), self.labels.cpu(), self.scores.cpu(), cells)

    @classmethod
    def empty(cls) -> "Detections":
        """No detections."""
        return cls(torch.zeros(0, 9), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
