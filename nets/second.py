"""SECOND at stride 4, LIGA-Stereo's LiDAR teacher: voxels to anchors (StereoDistill, part 3).

It ends on the student's grid, range and anchors, so that both speak of the same anchor. The last
sparse convolution has neither norm nor ReLU: its volume is what LIGA's student imitates.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32
from pydantic import BaseModel, ConfigDict, PositiveInt, model_validator
from torch import Tensor, nn

from nets.anchor_head import AnchorHeadConfig
from nets.bev_head import BEVHead, BEVHeadConfig, BEVHeadMaps
from nets.sparse import set_algorithm, spconv
from nets.voxel_encoder import sparse_norm, submanifold
from nets.voxel_encoder_config import Algorithm
from nets.voxelize import VoxelGrid, Voxels

STRIDE = 4


class SecondConfig(BaseModel):
    """Sizes; defaults are LIGA-Stereo's for KITTI.

    Attributes:
        voxels: Range and voxel size; the anchors lie on cells of four voxels' edge.
        in_channels: Point columns; LIGA's teacher reads x y z.
        channels: Of the four sparse stages.
        out_channels: Of the sparse volume.
        bev: From the BEV map to anchors.
        algorithm: spconv's; "auto" picks what suits the device.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    voxels: VoxelGrid = VoxelGrid(
        range_min=(2.0, -30.4, -3.0), range_max=(59.6, 30.4, 1.0), voxel_size=(0.05, 0.05, 0.1)
    )
    in_channels: PositiveInt = 3
    channels: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (16, 32, 64, 64)
    out_channels: PositiveInt = 32
    bev: BEVHeadConfig = BEVHeadConfig(head=AnchorHeadConfig(groups=0))
    algorithm: Algorithm = "auto"

    @model_validator(mode="after")
    def _one_map(self) -> "SecondConfig":
        _, rows, cols = self.voxels.shape
        if (rows, cols) != tuple(STRIDE * cells for cells in self.bev.anchors.grid.shape):
            raise ValueError(
                f"{rows} x {cols} voxels (y, x), bev.anchors.grid {self.bev.anchors.grid.shape}: "
                f"expected {STRIDE} voxels a cell along both"
            )
        if self.slices < 1:
            raise ValueError(f"{self.voxels.shape[0]} voxels along z are too few: take 7 or more")
        return self

    @property
    def slices(self) -> int:
        """Slices of the sparse volume along z."""
        # One slice more than there are voxels; halved with padding 1, 1 and 0.
        depth = self.voxels.shape[0] + 1
        for padding in (1, 1, 0):
            depth = (depth + 2 * padding - 3) // 2 + 1
        return depth


@dataclass(frozen=True, slots=True)
class SecondMaps:
    """What the teacher says of a batch.

    Attributes:
        volume: Of its sparse part, zeros where it is empty.
        bev: On the ground.
    """

    volume: Float[Tensor, "b c z y x"]
    bev: BEVHeadMaps


class Second(nn.Module):
    """The network."""

    def __init__(self, config: SecondConfig) -> None:
        super().__init__()
        self.config = config
        first, second, third, fourth = config.channels
        self.sparse = spconv.SparseSequential(
            *_kept(config.in_channels, first, "subm0"),
            *_kept(first, first, "subm0"),
            *_halved(first, second, 2, 1),
            *_kept(second, second, "subm1"),
            *_kept(second, second, "subm1"),
            *_halved(second, third, 2, 1),
            *_kept(third, third, "subm2"),
            *_kept(third, third, "subm2"),
            # Along z alone, and without padding there.
            *_halved(third, fourth, (2, 1, 1), (0, 1, 1)),
            *_kept(fourth, fourth, "subm3"),
            *_kept(fourth, fourth, "subm3"),
            spconv.SparseConv3d(fourth, config.out_channels, 1, bias=False),
        )
        self.bev = BEVHead(config.bev, config.out_channels * config.slices)

    def forward(self, voxels: Voxels) -> SecondMaps:
        """Detect in voxels of the student's frame."""
        volume = self._volume(voxels)
        # Heights become channels: (b, c * z, y, x), as in the student.
        return SecondMaps(volume, self.bev(volume.flatten(1, 2)))

    def _volume(self, voxels: Voxels) -> Float32[Tensor, "b c z y x"]:
        """Always in float32, whatever autocast says."""
        config = self.config
        depth, rows, cols = config.voxels.shape
        size = (config.slices, rows // STRIDE, cols // STRIDE)
        volume = voxels.mean.new_zeros(voxels.batch_size, *size, config.out_channels)
        if len(voxels.coords):
            set_algorithm(self, config.algorithm, voxels.mean.device)
            with torch.autocast(voxels.mean.device.type, enabled=False):
                shape = [depth + 1, rows, cols]
                batch = voxels.batch_size
                x = spconv.SparseConvTensor(voxels.mean, voxels.coords, shape, batch)
                x = self.sparse(x)
                volume = volume.index_put(tuple(x.indices.long().unbind(1)), x.features)
        return volume.movedim(4, 1)


def _kept(in_channels: int, out_channels: int, key: str) -> list[nn.Module]:
    """A convolution at the voxels that are there."""
    return [submanifold(in_channels, out_channels, key), sparse_norm(out_channels), nn.ReLU()]


def _halved(
    in_channels: int,
    out_channels: int,
    stride: int | tuple[int, int, int],
    padding: int | tuple[int, int, int],
) -> list[nn.Module]:
    conv = spconv.SparseConv3d(in_channels, out_channels, 3, stride, padding, bias=False)
    return [conv, sparse_norm(out_channels), nn.ReLU()]
