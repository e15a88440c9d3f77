"""Reads a multi-camera frame together with earlier key frames."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import numpy as np

from frames.augment import BevAugment
from frames.camera_input import CameraInput
from frames.frame import Frame
from frames.history import History, seen_from
from frames.image_augment import ImageAugmentConfig
from student_train.students.base import Reader
from student_train.students.camera_input import CameraReader


class PastReader(CameraReader):
    """A :class:`CameraReader` that also reads the images of key frames before the frame.

    Args:
        cameras: Names of the cameras that every frame must have.
        augment: Of each image; a camera's draw is the same in all frames of an example.
        depth_stride: Of the key frame's depth map, pixels; None: depth is not taught.
        offsets: Which key frames, counted from the frame: (-2, -4).
        history: Where they are looked up.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        augment: ImageAugmentConfig,
        depth_stride: int | None,
        offsets: Sequence[int],
        history: History | None = None,
    ) -> None:
        super().__init__(cameras, augment, depth_stride)
        self.offsets, self.history = offsets, history or History()
        self._of_past = CameraReader(cameras, augment, None)

    def among(self, frames: Sequence[Frame]) -> "PastReader":
        """The same reader, which finds the past of a frame among these."""
        return PastReader(
            self.cameras, self.augment, self.depth_stride, self.offsets, History(frames)
        )

    def read(
        self, frame: Frame, augment: BevAugment, rng: np.random.Generator | None
    ) -> CameraInput:
        """See :class:`student_train.students.base.Reader`."""
        # Equal chances give a camera equal draws: they are the first thing that is drawn.
        key = super().read(frame, augment, deepcopy(rng))
        past = tuple(
            self._of_past.read(seen_from(earlier, frame), augment, deepcopy(rng))
            for earlier in self.history.past(frame, self.offsets)
        )
        return replace(key, past=past)


def reader_among(reader: Reader, frames: Sequence[Frame]) -> Reader:
    """The reader, which finds pasts among these frames if it reads any."""
    return reader.among(frames) if isinstance(reader, PastReader) else reader
