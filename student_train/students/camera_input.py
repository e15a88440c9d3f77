"""Reads what a multi-camera student looks at."""

from collections.abc import Sequence

import numpy as np

from frames.augment import BevAugment
from frames.camera_input import CameraInput, check_cameras, read_cameras
from frames.frame import Frame
from frames.image_augment import ImageAugmentConfig
from frames.loading import check_image_files, check_point_files
from student_train.students.base import Reader


class CameraReader(Reader):
    """Reads the images of a frame and, where depth is taught, its key LiDAR sweep.

    Args:
        cameras: Names of the cameras that every frame must have.
        augment: Of each image.
        depth_stride: Of the depth map, pixels; None: depth is not taught, no LiDAR file is opened.
    """

    def __init__(
        self, cameras: Sequence[str], augment: ImageAugmentConfig, depth_stride: int | None
    ) -> None:
        self.cameras, self.augment, self.depth_stride = cameras, augment, depth_stride

    def check(self, frames: Sequence[Frame], *, training: bool) -> None:
        """See :class:`Reader`."""
        check_cameras(frames, self.cameras)
        check_image_files(frames)
        if training and self.depth_stride is not None:
            check_point_files(frames, sweeps=1)

    def read(
        self, frame: Frame, augment: BevAugment, rng: np.random.Generator | None
    ) -> CameraInput:
        """See :class:`Reader`."""
        return read_cameras(frame, augment, rng, self.augment, self.depth_stride)
