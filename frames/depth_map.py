"""Depth of LiDAR points in the images, as a target for depth supervision."""

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from frames.geometry import project


def depth_targets(
    points: Float[Tensor, "n 3"],
    image_from_cam: Float[Tensor, "v 3 3"],
    ego_from_cam: Float[Tensor, "v 4 4"],
    augmented_from_image: Float[Tensor, "v 3 3"],
    *,
    image_size: tuple[int, int],
    stride: int,
) -> Float32[Tensor, "v h w"]:
    """Smallest depth in each stride x stride patch of each augmented image (BEVDepth).

    Args:
        points: Ego frame, before any BEV augmentation, metres.
        image_from_cam: Intrinsics, pixels.
        ego_from_cam: Camera poses.
        augmented_from_image: Image augmentation on homogeneous pixels.
        image_size: (height, width) of the augmented image, pixels.
        stride: Patch edge, pixels; divides the image.

    Returns:
        Metres; 0 where no point projects.
    """
    height, width = image_size[0] // stride, image_size[1] // stride
    targets = []
    cam_from_ego = torch.linalg.inv(ego_from_cam.double()).to(points)
    for intrinsics, pose, augment in zip(
        image_from_cam, cam_from_ego, augmented_from_image, strict=True
    ):
        pixels, depth = project(points @ pose[:3, :3].mT + pose[:3, 3], intrinsics.to(points))
        moved = pixels @ augment[:2, :2].mT.to(points) + augment[:2, 2].to(points)
        # Integer pixels are centres, so patch 0 begins at -0.5.
        cols, rows = ((moved + 0.5) / stride).floor().unbind(-1)
        seen = (depth > 0.1) & (cols >= 0) & (cols < width) & (rows >= 0) & (rows < height)
        index = (rows * width + cols)[seen].long()
        nearest = torch.full((height * width,), torch.inf)
        nearest.scatter_reduce_(0, index, depth[seen].float(), "amin")
        targets.append(torch.where(nearest.isfinite(), nearest, 0.0).reshape(height, width))
    return torch.stack(targets)
