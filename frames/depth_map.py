"""Depth of LiDAR points in the images, as a target for depth supervision."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from frames.camera_view import project_ego
from frames.frame import Camera

MIN_DEPTH = 0.1


def depth_targets(
    points: Float[Tensor, "n 3"],
    cameras: Sequence[Camera],
    augmented_from_image: Float[Tensor, "v 3 3"],
    *,
    image_size: tuple[int, int],
    stride: int,
) -> Float32[Tensor, "v h w"]:
    """Smallest depth in each stride x stride patch of each augmented image (BEVDepth).

    Args:
        points: Ego frame, before any BEV augmentation, metres.
        cameras: One for each v.
        augmented_from_image: Image augmentation on homogeneous pixels.
        image_size: (height, width) of the augmented image, pixels.
        stride: Patch edge, pixels; divides the image.

    Returns:
        Metres; 0 where no point projects, or outside the camera's own image (a small resize or a
        turn leaves black margins).
    """
    height, width = image_size[0] // stride, image_size[1] // stride
    targets = []
    for camera, augment in zip(cameras, augmented_from_image, strict=True):
        pixels, depth = project_ego(camera, points)
        # Integer pixels are centres, so the image and its first patch begin at -0.5.
        end = pixels.new_tensor(camera.size[::-1]) - 0.5
        own = ((pixels >= -0.5) & (pixels < end)).all(1) & (depth > MIN_DEPTH)
        moved = pixels @ augment[:2, :2].mT.to(points) + augment[:2, 2].to(points)
        cols, rows = ((moved + 0.5) / stride).floor().unbind(-1)
        seen = own & (cols >= 0) & (cols < width) & (rows >= 0) & (rows < height)
        index = (rows * width + cols)[seen].long()
        nearest = torch.full((height * width,), torch.inf)
        nearest.scatter_reduce_(0, index, depth[seen].float(), "amin")
        targets.append(torch.where(nearest.isfinite(), nearest, 0.0).reshape(height, width))
    return torch.stack(targets)
