"""What a stereo student looks at: an image pair, cut to size, its geometry, LiDAR depth.

As LIGA-Stereo (commit aee3731): the sky is cut off, what is
narrower than the network's images is padded; augmentation is the flip alone, in which the two
images change places.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor

from frames.augment import BevAugment
from frames.camera_view import image_from_ego
from frames.depth_map import depth_targets
from frames.errors import DataError
from frames.frame import Camera, Frame
from frames.image_augment import ImageAugment
from frames.kitti.stereo import flip_cameras, flip_images, focal_baseline
from frames.loading import check_image_files, check_point_files, load_images, load_points
from student_train.students.base import Reader, StudentInput

MIRROR = BevAugment.compose(flip_y=True)


@dataclass(frozen=True, slots=True)
class StereoInput(StudentInput):
    """Image pairs.

    Attributes:
        images: RGB, left then right; 0 beyond ``size``.
        size: (height, width) of what of them is no padding.
        focal_baseline: Focal length x distance between the cameras, pixels x metres.
        image_from_voxel: Projects points of the augmented BEV frame to pixels of the left image.
        depth: Metres at each pixel of the left image, 0 where unknown; None if it is not taught.
    """

    images: UInt8[Tensor, "b 2 3 h w"]
    size: Int64[Tensor, "b 2"]
    focal_baseline: Float32[Tensor, " b"]
    image_from_voxel: Float32[Tensor, "b 3 4"]
    depth: Float32[Tensor, "b h w"] | None = None

    @classmethod
    def stack(cls, frames: Sequence["StereoInput"]) -> "StereoInput":
        """See :class:`StudentInput`."""
        depths = [frame.depth for frame in frames if frame.depth is not None]
        return cls(
            torch.cat([frame.images for frame in frames]),
            torch.cat([frame.size for frame in frames]),
            torch.cat([frame.focal_baseline for frame in frames]),
            torch.cat([frame.image_from_voxel for frame in frames]),
            torch.cat(depths) if depths else None,
        )

    def to(self, device: torch.device) -> "StereoInput":
        """See :class:`StudentInput`."""
        return StereoInput(
            self.images.to(device, non_blocking=True),
            self.size.to(device),
            self.focal_baseline.to(device),
            self.image_from_voxel.to(device),
            None if self.depth is None else self.depth.to(device),
        )


class StereoReader(Reader):
    """Reads the pair of a frame and, where depth is taught, its LiDAR.

    Args:
        image_size: (height, width) that the network sees, pixels.
        image_scale: Pixels that it sees for one of the image.
        with_depth: Whether depth is taught.
    """

    def __init__(
        self, image_size: tuple[int, int], image_scale: float, *, with_depth: bool
    ) -> None:
        self.image_size, self.image_scale, self.with_depth = image_size, image_scale, with_depth

    def among(self, _frames: Sequence[Frame]) -> "StereoReader":
        """See :class:`Reader`; it reads no past."""
        return self

    def check(self, frames: Sequence[Frame], *, training: bool) -> None:
        """See :class:`Reader`."""
        for frame in frames:
            if len(frame.cameras) != 2:
                names = [camera.name for camera in frame.cameras]
                raise DataError(
                    f"frame {frame.token} has the cameras {names}; a stereo student needs a left "
                    "and a right one: set data.cameras to these two"
                )
            left, right = frame.cameras
            if left.ego_from_cam.translation[1] <= right.ego_from_cam.translation[1]:
                raise DataError(
                    f"frame {frame.token}: {left.name} does not stand left of {right.name}: list "
                    "the left one first in data.cameras"
                )
        check_image_files(frames)
        if training and self.with_depth:
            check_point_files(frames, sweeps=1)

    def read(
        self, frame: Frame, augment: BevAugment, rng: np.random.Generator | None
    ) -> StereoInput:
        """See :class:`Reader`; nothing but the BEV frame's flip is drawn.

        Raises:
            DataError: The augmentation is more than a flip of y.
        """
        cameras, images = frame.cameras, load_images(frame)
        if not augment.is_identity:
            if not torch.equal(augment.matrix, MIRROR.matrix):
                raise DataError(
                    f"frame {frame.token}: a stereo student can be mirrored along y alone: "
                    "set nothing but flip_y in bev_augment, here and in the cache's dump"
                )
            cameras, images = flip_cameras(*cameras), [*flip_images(*images)]
        left, right = cameras
        own = cut(left.size, self.image_size, self.image_scale)
        inside = [min(have, room) for have, room in zip(own.resized, self.image_size, strict=True)]
        depth = self._depth(frame, left, own.matrix, augment) if rng is not None else None
        return StereoInput(
            torch.stack([own.apply(image) for image in images])[None],
            torch.tensor([inside]),
            # Disparities are columns of the scaled image.
            torch.tensor([focal_baseline(left, right) * own.resized[1] / left.size[1]]),
            (own.matrix.double() @ torch.from_numpy(image_from_ego(left))).float()[None],
            depth,
        )

    def _depth(
        self,
        frame: Frame,
        left: Camera,
        augmented_from_image: Float[Tensor, "3 3"],
        augment: BevAugment,
    ) -> Float32[Tensor, "1 h w"] | None:
        """The nearest point of each pixel (LIGA-Stereo keeps the last in the file's order)."""
        if not self.with_depth:
            return None
        points = augment.points(load_points(replace(frame, sweeps=frame.sweeps[:1])))
        size = self.image_size
        matrix = augmented_from_image[None]
        return depth_targets(points[:, :3], [left], matrix, image_size=size, stride=1)


def cut(size: tuple[int, int], image_size: tuple[int, int], scale: float) -> ImageAugment:
    """Scaled, then cut to its bottom and its middle columns; what is smaller is padded.

    Args:
        size: (height, width) of the image, pixels.
        image_size: Of the result.
        scale: Pixels of the result for one of the image.
    """
    resized = (round(size[0] * scale), round(size[1] * scale))
    spare = [max(have - room, 0) for have, room in zip(resized, image_size, strict=True)]
    crop = (spare[0], spare[1] // 2)
    return ImageAugment(size=size, resized=resized, crop=crop, out_size=image_size)
