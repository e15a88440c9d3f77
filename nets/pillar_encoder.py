"""Pillar encoder: points to a BEV map with a point-wise network (PointPillars, mmdet3d's PFN)."""

from math import log2
from typing import Literal

import torch
from jaxtyping import Float, Float32
from pydantic import BaseModel, ConfigDict, PositiveInt, model_validator
from torch import Tensor, nn

from nets.blocks import NORM_EPS, NORM_MOMENTUM, conv_norm_relu
from nets.voxelize import VoxelGrid, Voxels

# Offsets to the mean of the pillar's points (x y z) and to its centre (x y).
DECORATION = 5


class PillarEncoderConfig(BaseModel):
    """Sizes; defaults are mmdet3d's centerpoint_02pillar.

    Attributes:
        voxels: Range and pillar size; a pillar is as high as the range.
        in_channels: Point columns (x, y, z, intensity, time lag).
        channels: Width of the point network and of the map.
        stride: Pillars along x or y in one cell of the output.
        block_layers: Convolutions in each block that halves the map.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    voxels: VoxelGrid = VoxelGrid(voxel_size=(0.2, 0.2, 8.0))
    in_channels: PositiveInt = 5
    channels: PositiveInt = 64
    stride: Literal[1, 2, 4] = 1
    block_layers: PositiveInt = 1

    @model_validator(mode="after")
    def _fits(self) -> "PillarEncoderConfig":
        depth, rows, cols = self.voxels.shape
        if depth != 1 or rows % self.stride or cols % self.stride:
            raise ValueError(
                f"voxels along z, y, x are {depth}, {rows}, {cols}; expected 1 along z and "
                f"multiples of the stride {self.stride} along y and x"
            )
        return self


class PillarEncoder(nn.Module):
    """Decorated points, one linear layer, maximum over each pillar, canvas, strided blocks."""

    def __init__(self, config: PillarEncoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels
        self.point_net = nn.Sequential(
            nn.Linear(config.in_channels + DECORATION, width, bias=False),
            nn.BatchNorm1d(width, eps=NORM_EPS, momentum=NORM_MOMENTUM),
            nn.ReLU(inplace=True),
        )
        self.blocks = nn.Sequential(
            *(
                conv_norm_relu(width, width, stride=1 if layer else 2)
                for _ in range(int(log2(config.stride)))
                for layer in range(config.block_layers)
            )
        )

    def forward(self, voxels: Voxels) -> Float[Tensor, "b c h w"]:
        """BEV map, rows along y and columns along x."""
        _, rows, cols = self.config.voxels.shape
        canvas = voxels.mean.new_zeros(voxels.batch_size * rows * cols, self.config.channels)
        if len(voxels.coords):
            batch, _, row, col = voxels.coords.long().unbind(1)
            canvas = canvas.index_copy(0, (batch * rows + row) * cols + col, self._pillars(voxels))
        canvas = canvas.view(voxels.batch_size, rows, cols, -1).permute(0, 3, 1, 2)
        encoded: Tensor = self.blocks(canvas.contiguous())
        return encoded

    def _pillars(self, voxels: Voxels) -> Float32[Tensor, "v c"]:
        """Maximum over each pillar's points."""
        features = self.point_net(decorate(voxels, self.config.voxels)).float()
        index = voxels.point_voxel[:, None].expand_as(features)
        # Features are not negative, so the zeros of the start never win.
        start = features.new_zeros(len(voxels.coords), features.shape[1])
        pillars: Tensor = start.scatter_reduce(0, index, features, "amax")
        return pillars


def decorate(voxels: Voxels, grid: VoxelGrid) -> Float32[Tensor, "p d"]:
    """Points with their offsets to the pillar's mean (x y z) and centre (x y), metres."""
    xyz = voxels.points[:, :3]
    to_mean = xyz - voxels.mean[voxels.point_voxel, :3]
    size, low = xyz.new_tensor(grid.voxel_size[:2]), xyz.new_tensor(grid.range_min[:2])
    col_row = voxels.coords[voxels.point_voxel][:, [3, 2]]
    to_centre = xyz[:, :2] - ((col_row + 0.5) * size + low)
    return torch.cat([voxels.points, to_mean, to_centre], dim=1)
