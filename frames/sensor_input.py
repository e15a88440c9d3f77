"""What a detector of any kind sees: points, images or both, in one augmented BEV frame."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from frames.augment import BevAugment
from frames.camera_input import CameraInput, check_cameras, read_cameras
from frames.frame import Frame
from frames.history import History, seen_from
from frames.image_augment import ImageAugmentConfig
from frames.loading import check_image_files, check_point_files, load_points

Modality = Literal["lidar", "camera", "fusion"]
# As results files name them.
SENSORS: dict[Modality, tuple[str, ...]] = {
    "lidar": ("lidar",),
    "camera": ("camera",),
    "fusion": ("camera", "lidar"),
}


@dataclass(frozen=True, slots=True)
class SensorInput:
    """Several frames.

    Attributes:
        points: Of each frame: x y z in metres, intensity, time lag in seconds; None: none are read.
        cameras: Of all frames; None: none are read.
    """

    points: tuple[Float[Tensor, "_ 5"], ...] | None
    cameras: CameraInput | None

    @classmethod
    def stack(cls, frames: Sequence["SensorInput"]) -> "SensorInput":
        """One batch of batches."""
        points = [frame.points for frame in frames if frame.points is not None]
        cameras = [frame.cameras for frame in frames if frame.cameras is not None]
        return cls(
            tuple(cloud for clouds in points for cloud in clouds) if points else None,
            CameraInput.stack(cameras) if cameras else None,
        )

    def to(self, device: torch.device) -> "SensorInput":
        """The same on another device."""
        points = self.points
        if points is not None:
            points = tuple(cloud.to(device, non_blocking=True) for cloud in points)
        return SensorInput(points, None if self.cameras is None else self.cameras.to(device))


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorReader:
    """Reads the files of frames for one detector; loader processes carry it.

    Attributes:
        kind: What the detector sees.
        cameras: Names of the cameras that every frame must have.
        image_augment: Of each image, where it sees images.
        depth_stride: Of the depth that is taught, pixels; None: no LiDAR file is opened for it.
        past: Which earlier key frames' images it sees, too, counted from the frame: (-2, -4).
        history: Where they are looked up.
    """

    kind: Modality
    cameras: Sequence[str] = ()
    image_augment: ImageAugmentConfig | None = None
    depth_stride: int | None = None
    past: Sequence[int] = ()
    history: History = field(default_factory=History)

    def among(self, frames: Sequence[Frame]) -> "SensorReader":
        """The same reader, which finds the past of a frame among these."""
        return replace(self, history=History(frames)) if self.past else self

    def check(self, frames: Sequence[Frame], *, training: bool) -> None:
        """Refuse frames that lack what will be read.

        Raises:
            DataError: Naming the first such frame or file.
        """
        if self.kind != "lidar":
            check_cameras(frames, self.cameras)
        check_sensor_files(frames, self.kind)
        if training and self.depth_stride is not None:
            check_point_files(frames, sweeps=1)

    def read(
        self, frame: Frame, augment: BevAugment, rng: np.random.Generator | None
    ) -> SensorInput:
        """One frame as a batch of one.

        Args:
            frame: As the data set has it.
            augment: Of its BEV frame: of points and of the cameras' geometry.
            rng: Draws how each image is augmented; None: as in testing, where no depth is read.
        """
        points = cameras = None
        if self.kind != "camera":
            points = (augment.points(load_points(frame)),)
        if self.kind != "lidar":
            cameras = self._images(frame, augment, rng, self.depth_stride)
            past = (seen_from(own, frame) for own in self.history.past(frame, self.past))
            earlier = tuple(self._images(own, augment, rng, None) for own in past)
            cameras = replace(cameras, past=earlier)
        return SensorInput(points, cameras)

    def _images(
        self,
        frame: Frame,
        augment: BevAugment,
        rng: np.random.Generator | None,
        depth_stride: int | None,
    ) -> CameraInput:
        assert self.image_augment is not None, "the run's config asks for it"
        # Equal chances give a camera equal draws in all time steps.
        return read_cameras(frame, augment, deepcopy(rng), self.image_augment, depth_stride)


def check_sensor_files(frames: Sequence[Frame], kind: str) -> None:
    """Refuse, before anything runs, frames without the files that such a detector reads.

    Args:
        frames: To check.
        kind: A modality; whatever somebody's own teacher calls itself beside these reads points.

    Raises:
        DataError: Naming the first missing file and how many there are.
    """
    if kind != "camera":
        check_point_files(frames)
    if kind in ("camera", "fusion"):
        check_image_files(frames)
