"""SECOND at stride 4, LIGA-Stereo's LiDAR teacher: voxels to anchors (commit aee3731).

It ends on the student's grid, range and anchors, so that both speak of the same anchor. The last
sparse convolution has neither norm nor ReLU: its volume is what LIGA's student imitates.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from nets.bev_head import BEVHead, BEVHeadMaps
from nets.second_config import STRIDE, SecondConfig
from nets.sparse import set_algorithm, spconv
from nets.voxel_encoder import sparse_norm, submanifold
from nets.voxelize import Voxels


@dataclass(frozen=True, slots=True)
class SecondMaps:
    """What the teacher says of a batch.

    Attributes:
        volume: Of its sparse part, zeros where it is empty; heights merged into channels.
        bev: On the ground.
    """

    volume: Float[Tensor, "b cz y x"]
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
        merged = volume.flatten(1, 2)
        return SecondMaps(merged, self.bev(merged))

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
