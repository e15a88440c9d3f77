"""Centre heatmaps of ground truth: where an object is, and which cells count as its foreground.

The convention is mmdet3d's CenterHead (v1.0.0rc4): Gaussian of sigma (2r+1)/6 on a (2r+1)^2
window around the centre cell, radius from a minimum overlap of 0.1 and never below 2, classes
merged by maximum. Its zeroing of values under float epsilon is left out: inside the window no
value is below exp(-9).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int64
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt
from torch import Tensor

from frames.boxes import BoxBatch
from frames.grid import BEVGrid


class GaussianMask(BaseModel):
    """How far an object's Gaussian reaches; the defaults are mmdet3d's CenterHead.

    Attributes:
        kind: Tells masks apart in JSON.
        min_overlap: Smallest IoU a box may keep when its corners move by the radius.
        min_radius: Cells; the floor of the radius.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["gaussian"] = "gaussian"
    min_overlap: float = Field(0.1, gt=0, lt=1)
    min_radius: NonNegativeInt = 2


CENTER_HEAD = GaussianMask()
# CVPR2023-UniDistill, the mask of its response loss: small boxes have their own cell alone.
UNIDISTILL = GaussianMask(min_overlap=0.7, min_radius=0)


def gaussian_radius(
    length: Float[Tensor, "*n"],
    width: Float[Tensor, "*n"],
    min_overlap: float = CENTER_HEAD.min_overlap,
) -> Float[Tensor, "*n"]:
    """CornerNet's radius of a box of the given size in cells, before rounding.

    The division by 2 instead of 2a is CornerNet's well-known slip, kept as the field keeps it.
    """
    total, area = length + width, length * width

    def root(b: Tensor, ac: Tensor) -> Tensor:
        return (b + (b * b - 4 * ac).sqrt()) / 2

    return torch.stack(
        [
            root(total, area * (1 - min_overlap) / (1 + min_overlap)),
            root(2 * total, 4 * (1 - min_overlap) * area),
            root(-2 * min_overlap * total, 4 * min_overlap * (min_overlap - 1) * area),
        ]
    ).amin(0)


def on_grid(boxes: BoxBatch, grid: BEVGrid) -> Bool[Tensor, "b m"]:
    """True for real boxes whose centre lies on the grid: those that have a target."""
    return boxes.valid & grid.contains(boxes.values[..., :2])


def center_heatmap(
    boxes: BoxBatch, grid: BEVGrid, num_classes: int, mask: GaussianMask = CENTER_HEAD
) -> Float32[Tensor, "b c {grid.shape[0]} {grid.shape[1]}"]:
    """Heatmap per class in [0, 1]: 1 at centre cells, 0 away from every object."""
    rows, cols = grid.shape
    gauss = gaussians(boxes, grid, mask).flatten(2)
    batch, count, cells = gauss.shape
    heatmap = gauss.new_zeros(batch, num_classes, cells)
    index = boxes.labels[..., None].expand(batch, count, cells)
    return heatmap.scatter_reduce(1, index, gauss, "amax").view(batch, num_classes, rows, cols)


def gaussians(
    boxes: BoxBatch, grid: BEVGrid, mask: GaussianMask = CENTER_HEAD
) -> Float32[Tensor, "b m {grid.shape[0]} {grid.shape[1]}"]:
    """Each object's own Gaussian; zero everywhere for padding and off the grid."""
    dy, dx, radius = _windows(boxes, grid, mask)
    two_variance = 2 * ((2 * radius + 1) / 6) ** 2

    def falloff(distance: Tensor) -> Tensor:
        return torch.exp(-(distance**2) / two_variance) * (distance.abs() <= radius)

    present = on_grid(boxes, grid)[..., None, None]
    return falloff(dy)[..., :, None] * falloff(dx)[..., None, :] * present


def inside_gaussians(
    boxes: BoxBatch, grid: BEVGrid, mask: GaussianMask = CENTER_HEAD
) -> Bool[Tensor, "b {grid.shape[0]} {grid.shape[1]}"]:
    """Where any object's Gaussian is above zero: in a window around its centre cell."""
    dy, dx, radius = _windows(boxes, grid, mask)
    rows = (dy.abs() <= radius) & on_grid(boxes, grid)[..., None]
    # A product of matrices counts the windows over each cell, without a map for each object.
    return rows.mT.float() @ (dx.abs() <= radius).float() > 0


def halved(maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c _ _"]:
    """Maps at half the resolution, bilinear, the corners' cell centres kept.

    So LabelDistill makes the mask of its coarser level (``F.interpolate``, align_corners).
    """
    rows, cols = maps.shape[2:]
    return F.interpolate(maps, (rows // 2, cols // 2), mode="bilinear", align_corners=True)


def _windows(
    boxes: BoxBatch, grid: BEVGrid, mask: GaussianMask
) -> tuple[Int64[Tensor, "b m _"], Int64[Tensor, "b m _"], Float[Tensor, "b m 1"]]:
    """Cells from each centre cell to each row and each column of the grid; the radius in cells."""
    rows, cols = grid.shape
    length, width = (boxes.values[..., 3:5] / grid.cell_size).unbind(-1)
    radius = gaussian_radius(length, width, mask.min_overlap).floor()
    index = grid.cell_index(boxes.values[..., :2])[..., None]
    dy = torch.arange(rows, device=index.device) - index // cols
    dx = torch.arange(cols, device=index.device) - index % cols
    return dy, dx, radius.clamp(min=mask.min_radius)[..., None]
