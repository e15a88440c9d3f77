"""Lift-splat: image features along their rays, weighted by depth, summed into BEV cells.

Axes: b frame, n camera, d depth bin, h w feature cell, c channel.
"""

import torch
from jaxtyping import Float32, Int64
from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from frames.camera_geometry import CameraGeometry
from frames.grid import BEVGrid
from nets.depth_net import DepthBins, DepthOutput


class ViewTransformConfig(BaseModel):
    """What is lifted where.

    Attributes:
        grid: Of the BEV map, augmented ego frame.
        bins: Depth bins.
        stride: Image pixels in one feature cell, along either axis.
        z_range: Lifted points from the first height up to below the second count, metres.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    grid: BEVGrid
    bins: DepthBins = DepthBins()
    stride: PositiveInt = 16
    z_range: tuple[float, float] = (-5.0, 3.0)


class ViewTransform(nn.Module):
    """Depth distribution x context, sum-pooled into the grid. No parameters; always float32."""

    def __init__(self, config: ViewTransformConfig) -> None:
        super().__init__()
        self.config = config

    def forward(
        self, lifted: DepthOutput, geometry: CameraGeometry
    ) -> Float32[Tensor, "b c rows cols"]:
        """BEV map of the grid's shape; cells no ray reaches are zero."""
        config = self.config
        depth = lifted.depth_logit.float().softmax(2)
        size = (depth.shape[-2], depth.shape[-1])
        points = frustum_points(geometry, config.bins, config.stride, size)
        cells = point_cells(points, config.grid, config.z_range)
        pooled = splat(depth, lifted.context.float(), cells, config.grid.num_cells)
        return pooled.view(*pooled.shape[:2], *config.grid.shape)


def frustum_points(
    geometry: CameraGeometry, bins: DepthBins, stride: int, feature_size: tuple[int, int]
) -> Float32[Tensor, "b n d h w 3"]:
    """Augmented ego coordinates, metres, of every feature cell's centre at every depth.

    Args:
        geometry: Of the cameras.
        bins: Depths are their centres, along the optical axis.
        stride: Image pixels in a feature cell; cell i is centred at pixel (i + 0.5) stride - 0.5.
        feature_size: (h, w), cells.
    """
    device = geometry.image_from_cam.device
    v, u = ((torch.arange(size, device=device) + 0.5) * stride - 0.5 for size in feature_size)
    pixels = torch.stack([*torch.meshgrid(u, v, indexing="xy"), u.new_ones(feature_size)], dim=-1)
    with torch.autocast(device.type, enabled=False):
        bev_from_cam = geometry.bev_from_cam()
        # Rays of unit depth, seen from BEV: a point is its depth times its ray plus the origin.
        bev_from_pixel = bev_from_cam[..., :3, :3] @ torch.linalg.inv(geometry.pixels_from_cam())
        rays = torch.einsum("bnij,hwj->bnhwi", bev_from_pixel, pixels)
    depths = bins.centres().to(device)[:, None, None, None]
    return rays[:, :, None] * depths + bev_from_cam[:, :, None, None, None, :3, 3]


def point_cells(
    points: Float32[Tensor, "b *n 3"], grid: BEVGrid, z_range: tuple[float, float]
) -> Int64[Tensor, " b *n"]:
    """Flat cell index of each point, -1 off the grid or outside the heights."""
    z = points[..., 2]
    inside = grid.contains(points[..., :2]) & (z >= z_range[0]) & (z < z_range[1])
    return torch.where(inside, grid.cell_index(points[..., :2]), -1)


def splat(
    depth: Float32[Tensor, "b n d h w"],
    context: Float32[Tensor, "b n c h w"],
    cells: Int64[Tensor, "b n d h w"],
    num_cells: int,
) -> Float32[Tensor, "b c cells"]:
    """Sum of depth x context over the points of each cell.

    The product is never held: with points sorted by cell, the sum is an embedding bag whose table
    is the context and whose weights are the depths.

    Args:
        depth: Weight of each point.
        context: Feature of each pixel, shared by its points.
        cells: Cell of each point, -1 for none.
        num_cells: Cells of one frame's grid.
    """
    batch, _, bins, rows, cols = depth.shape
    frame = torch.arange(batch, device=cells.device).view(-1, 1, 1, 1, 1)
    bag = torch.where(cells >= 0, frame * num_cells + cells, -1).flatten()
    point = (bag >= 0).nonzero().squeeze(1)
    bag, order = bag[point].to(torch.int32).sort()
    point = point[order]
    camera, pixel = point // (bins * rows * cols), point % (rows * cols)
    bounds = torch.arange(batch * num_cells, device=bag.device, dtype=torch.int32)
    pooled = F.embedding_bag(
        camera * (rows * cols) + pixel,
        context.movedim(2, -1).flatten(0, 3),
        torch.searchsorted(bag, bounds),
        mode="sum",
        per_sample_weights=depth.flatten()[point],
    )
    # Channels stay last in memory: convolutions take that as it is, a copy would cost a third.
    return pooled.view(batch, num_cells, -1).mT
