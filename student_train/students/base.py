"""What every kind of student has: an input, a reader of it, a network with its detection loss."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from frames.augment import BevAugment
from frames.boxes import BoxBatch
from frames.detections import Detections
from frames.frame import Frame
from nets.aux_head_2d import ImageMaps
from student_train.methods.base import StudentMaps


@runtime_checkable
class StudentInput(Protocol):
    """What a student looks at, of one frame or of a batch, and the depth it is taught."""

    @classmethod
    def stack(cls, frames: Sequence[Any]) -> "StudentInput":
        """One batch of batches."""
        ...

    def to(self, device: torch.device) -> "StudentInput":
        """The same on another device."""
        ...


@runtime_checkable
class Reader(Protocol):
    """Reads a frame's files for one kind of student; loader processes carry it."""

    def among(self, frames: Sequence[Frame]) -> "Reader":
        """The same reader, which finds what else it reads of a frame's past among these."""
        ...

    def check(self, frames: Sequence[Frame], *, training: bool) -> None:
        """Refuse frames that lack what will be read.

        Raises:
            DataError: Naming the first such frame or file.
        """
        ...

    def read(
        self, frame: Frame, augment: BevAugment, rng: np.random.Generator | None
    ) -> StudentInput:
        """One frame as a batch of one.

        Args:
            frame: As the data set has it.
            augment: Of its BEV frame.
            rng: Draws what else is augmented; None: as in testing, where no depth is read.
        """
        ...


@dataclass(frozen=True, slots=True)
class StudentOutput:
    """What a student says of a batch.

    Attributes:
        maps: What is distilled and decoded.
        depth_logit: What depth supervision reads; None of a student without cameras.
        image: Boxes in the image, in training and where they are taught.
    """

    maps: StudentMaps
    depth_logit: Float[Tensor, "..."] | None
    image: ImageMaps | None = None


class Student(nn.Module, ABC):
    """A detector, its loss and its detections."""

    @abstractmethod
    def forward(self, seen: Any) -> StudentOutput:
        """Everything that the losses and the methods read."""

    @abstractmethod
    def detection_terms(self, output: StudentOutput, boxes: BoxBatch) -> dict[str, Tensor]:
        """Weighted terms of the detection loss."""

    @abstractmethod
    def auxiliary_terms(
        self, output: StudentOutput, seen: Any, boxes: BoxBatch
    ) -> dict[str, Tensor]:
        """Weighted terms of what else is taught: depth ("depth"), boxes in the image."""

    @abstractmethod
    def detections(self, output: StudentOutput) -> list[Detections]:
        """Decoded boxes of each frame."""
