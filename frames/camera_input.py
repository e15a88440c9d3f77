"""What a network sees through cameras: images, augmented, where they look, LiDAR depth."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from frames.augment import BevAugment
from frames.camera_geometry import CameraGeometry
from frames.depth_map import depth_targets
from frames.errors import DataError
from frames.frame import Frame
from frames.image_augment import ImageAugmentConfig
from frames.loading import load_images, load_points


@dataclass(frozen=True, slots=True)
class CameraInput:
    """Images of several cameras.

    Attributes:
        images: RGB.
        geometry: Where they look, in the augmented BEV frame.
        depth: Metres at the image features' stride, 0 where unknown; None if it is not taught.
        past: The same cameras in earlier key frames; all look into this frame's BEV frame.
    """

    images: UInt8[Tensor, "b v 3 h w"]
    geometry: CameraGeometry
    depth: Float[Tensor, "b v hs ws"] | None = None
    past: tuple["CameraInput", ...] = ()

    @classmethod
    def stack(cls, frames: Sequence["CameraInput"]) -> "CameraInput":
        """One batch of batches."""
        geometry = {
            name: torch.cat([getattr(frame.geometry, name) for frame in frames])
            for name in CameraGeometry.__dataclass_fields__
        }
        depths = [frame.depth for frame in frames if frame.depth is not None]
        return cls(
            torch.cat([frame.images for frame in frames]),
            CameraGeometry(**geometry),
            torch.cat(depths) if depths else None,
            tuple(cls.stack(step) for step in zip(*(f.past for f in frames), strict=True)),
        )

    def to(self, device: torch.device) -> "CameraInput":
        """The same on another device."""
        depth = None if self.depth is None else self.depth.to(device)
        images = self.images.to(device, non_blocking=True)
        past = tuple(step.to(device) for step in self.past)
        return CameraInput(images, self.geometry.to(device), depth, past)


def read_cameras(
    frame: Frame,
    augment: BevAugment,
    rng: np.random.Generator | None,
    image_augment: ImageAugmentConfig,
    depth_stride: int | None,
) -> CameraInput:
    """The images of a frame as a batch of one and, where depth is taught, its key LiDAR sweep.

    Args:
        frame: As the data set has it.
        augment: Of its BEV frame.
        rng: Draws the augmentation of each image; None: as in testing, where no LiDAR is read.
        image_augment: Of each image.
        depth_stride: Of the depth map, pixels; None: depth is not taught.
    """
    chance = rng or np.random.default_rng(0)
    draws = [
        image_augment.draw(chance, camera.size, training=rng is not None)
        for camera in frame.cameras
    ]
    images = [draw.apply(image) for draw, image in zip(draws, load_images(frame), strict=True)]
    moved = torch.stack([draw.matrix for draw in draws])
    poses = np.stack([camera.ego_from_cam.matrix for camera in frame.cameras])
    intrinsics = np.stack([camera.image_from_cam for camera in frame.cameras])
    geometry = CameraGeometry(
        image_from_cam=torch.from_numpy(intrinsics).float()[None],
        augmented_from_image=moved[None],
        ego_from_cam=torch.from_numpy(poses).float()[None],
        augmented_from_ego=augment.matrix4[None],
    )
    depth = None
    if rng is not None and depth_stride is not None:
        # As BEVDepth: the key sweep only; moving objects smear in older ones.
        key_sweep = replace(frame, sweeps=frame.sweeps[:1])
        depth = depth_targets(
            load_points(key_sweep)[:, :3],
            frame.cameras,
            moved,
            image_size=image_augment.out_size,
            stride=depth_stride,
        )[None]
    return CameraInput(torch.stack(images)[None], geometry, depth)


def check_cameras(frames: Sequence[Frame], names: Sequence[str]) -> None:
    """Refuse frames that lack a camera the network looks through.

    Raises:
        DataError: Naming the first such frame.
    """
    for frame in frames:
        missing = sorted(set(names) - {camera.name for camera in frame.cameras})
        if missing:
            lacking = sum(len(f.cameras) < len(names) for f in frames)
            raise DataError(
                f"frame {frame.token} lacks {', '.join(missing)} ({lacking} of {len(frames)} "
                "frames lack a camera): choose a split whose frames have them, or list in "
                "data.cameras the cameras to use"
            )
