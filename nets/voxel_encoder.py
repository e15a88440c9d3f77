"""Sparse 3D encoder of CenterPoint's voxel model (mmdet3d SparseEncoder with basic blocks)."""

from collections.abc import Iterable

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from nets.blocks import NORM_EPS, NORM_MOMENTUM
from nets.sparse import set_algorithm, spconv
from nets.voxel_encoder_config import OUT_KERNEL_Z, VoxelEncoderConfig
from nets.voxelize import Voxels


class SparseResidualBlock(spconv.SparseModule):  # type: ignore[misc]
    """Two submanifold convolutions around an identity."""

    def __init__(self, channels: int, key: str) -> None:
        super().__init__()
        self.conv1 = submanifold(channels, channels, key)
        self.bn1 = sparse_norm(channels)
        self.conv2 = submanifold(channels, channels, key)
        self.bn2 = sparse_norm(channels)

    def forward(self, x: spconv.SparseConvTensor) -> spconv.SparseConvTensor:
        """The refined tensor, same voxels."""
        out = self.conv1(x)
        out = out.replace_feature(torch.relu(self.bn1(out.features)))
        out = self.conv2(out)
        return out.replace_feature(torch.relu(self.bn2(out.features) + x.features))


class VoxelEncoder(nn.Module):
    """Voxel means to a BEV map. Always in float32, whatever autocast says."""

    def __init__(self, config: VoxelEncoderConfig) -> None:
        super().__init__()
        self.config = config
        first = config.channels[0]
        self.conv_input = spconv.SparseSequential(
            submanifold(config.in_channels, first, "subm0"), sparse_norm(first), nn.ReLU()
        )
        self.stages = nn.ModuleList(self._stages())
        last = config.channels[-1]
        self.conv_out = spconv.SparseSequential(
            spconv.SparseConv3d(last, last, (OUT_KERNEL_Z, 1, 1), (2, 1, 1), bias=False),
            sparse_norm(last),
            nn.ReLU(),
        )

    def _stages(self) -> Iterable[nn.Module]:
        """Stages as mmdet3d groups them, except that each begins with its strided convolution."""
        config = self.config
        for index, channels in enumerate(config.channels):
            layers: list[nn.Module] = []
            if index:
                layers += _downsample(
                    config.channels[index - 1], channels, config.z_padding[index - 1]
                )
            layers += [SparseResidualBlock(channels, f"subm{index}") for _ in range(config.blocks)]
            yield spconv.SparseSequential(*layers)

    def forward(self, voxels: Voxels) -> Float32[Tensor, "b c h w"]:
        """BEV map, rows along y and columns along x; zero everywhere if no voxel is occupied."""
        config = self.config
        if not len(voxels.coords):
            _, rows, cols = config.voxels.shape
            size = (rows // config.stride, cols // config.stride)
            return voxels.mean.new_zeros(voxels.batch_size, config.out_channels, *size)
        set_algorithm(self, config.algorithm, voxels.mean.device)
        with torch.autocast(voxels.mean.device.type, enabled=False):
            x = spconv.SparseConvTensor(
                voxels.mean, voxels.coords, list(config.spatial_shape), voxels.batch_size
            )
            x = self.conv_input(x)
            for stage in self.stages:
                x = stage(x)
            return _fold_height(self.conv_out(x))


def _fold_height(x: spconv.SparseConvTensor) -> Float32[Tensor, "b c h w"]:
    """Dense map with z folded into channels, channel-major (spconv's own dense() is deprecated)."""
    dense: Tensor = x.features.new_zeros(x.batch_size, *x.spatial_shape, x.features.shape[1])
    dense = dense.index_put(tuple(x.indices.long().unbind(1)), x.features)
    return dense.permute(0, 4, 1, 2, 3).flatten(1, 2)


def sparse_norm(channels: int) -> nn.BatchNorm1d:
    """BatchNorm of the occupied voxels."""
    return nn.BatchNorm1d(channels, eps=NORM_EPS, momentum=NORM_MOMENTUM)


def submanifold(in_channels: int, out_channels: int, key: str) -> spconv.SubMConv3d:
    """A 3x3x3 convolution at the occupied voxels; those with one key share their neighbours."""
    return spconv.SubMConv3d(in_channels, out_channels, 3, padding=1, bias=False, indice_key=key)


def _downsample(in_channels: int, out_channels: int, z_padding: int) -> list[nn.Module]:
    conv = spconv.SparseConv3d(
        in_channels, out_channels, 3, 2, padding=(z_padding, 1, 1), bias=False
    )
    return [conv, sparse_norm(out_channels), nn.ReLU()]
