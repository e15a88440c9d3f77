"""Sparse 3D encoder of CenterPoint's voxel model (mmdet3d SparseEncoder with basic blocks)."""

from collections.abc import Iterable

import torch
from jaxtyping import Float32
from pydantic import BaseModel, ConfigDict, PositiveInt, model_validator
from torch import Tensor, nn

from nets.blocks import NORM_EPS, NORM_MOMENTUM
from nets.sparse import Algorithm, conv_algorithm, spconv
from nets.voxelize import VoxelGrid, Voxels

OUT_KERNEL_Z = 3


class VoxelEncoderConfig(BaseModel):
    """Sizes; defaults are the LiDAR teacher's (mmdet3d centerpoint_01voxel_second_secfpn).

    Attributes:
        voxels: Range and voxel size.
        in_channels: Point columns (x, y, z, intensity, time lag).
        channels: Width of each stage; every stage but the first begins with a stride of 2.
        z_padding: Padding along z of each of those strided convolutions.
        blocks: Residual blocks in each stage.
        algorithm: spconv's convolution algorithm; "auto" picks by whether CUDA is there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    voxels: VoxelGrid = VoxelGrid()
    in_channels: PositiveInt = 5
    channels: tuple[PositiveInt, ...] = (16, 32, 64, 128)
    z_padding: tuple[int, ...] = (1, 1, 0)
    blocks: PositiveInt = 2
    algorithm: Algorithm = "auto"

    @model_validator(mode="after")
    def _fits(self) -> "VoxelEncoderConfig":
        if len(self.z_padding) != len(self.channels) - 1 or not set(self.z_padding) <= {0, 1}:
            raise ValueError(
                f"z_padding {self.z_padding} does not fit channels {self.channels}: expected one "
                "0 or 1 for each stage after the first"
            )
        _, rows, cols = self.voxels.shape
        if rows % self.stride or cols % self.stride:
            raise ValueError(
                f"{rows} x {cols} voxels (y, x) are no multiple of the stride {self.stride}: "
                "change voxels or the number of channels"
            )
        if self.z_slices < 1:
            raise ValueError(
                f"{self.voxels.shape[0]} voxels along z are too few for z_padding "
                f"{self.z_padding}: take lower voxels, fewer stages or more padding"
            )
        return self

    @property
    def stride(self) -> int:
        """Voxels along x or y in one cell of the output."""
        return int(2 ** (len(self.channels) - 1))

    @property
    def spatial_shape(self) -> tuple[int, int, int]:
        """Sparse tensor's z, y, x: one slice more than there are voxels, as mmdet3d has it."""
        depth, rows, cols = self.voxels.shape
        return depth + 1, rows, cols

    @property
    def z_slices(self) -> int:
        """Slices left along z, which the output folds into its channels."""
        depth = self.spatial_shape[0]
        for padding in self.z_padding:
            depth = (depth + 2 * padding - 3) // 2 + 1
        return (depth - OUT_KERNEL_Z) // 2 + 1

    @property
    def out_channels(self) -> int:
        """Channels of the BEV map: last width x slices."""
        return self.channels[-1] * self.z_slices


class SparseResidualBlock(spconv.SparseModule):  # type: ignore[misc]
    """Two submanifold convolutions around an identity."""

    def __init__(self, channels: int, key: str, algorithm: Algorithm) -> None:
        super().__init__()
        self.conv1 = _submanifold(channels, channels, key, algorithm)
        self.bn1 = _norm(channels)
        self.conv2 = _submanifold(channels, channels, key, algorithm)
        self.bn2 = _norm(channels)

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
        algorithm = config.algorithm
        first = config.channels[0]
        self.conv_input = spconv.SparseSequential(
            _submanifold(config.in_channels, first, "subm0", algorithm), _norm(first), nn.ReLU()
        )
        self.stages = nn.ModuleList(self._stages())
        last = config.channels[-1]
        self.conv_out = spconv.SparseSequential(
            spconv.SparseConv3d(
                last,
                last,
                (OUT_KERNEL_Z, 1, 1),
                (2, 1, 1),
                bias=False,
                algo=conv_algorithm(algorithm),
            ),
            _norm(last),
            nn.ReLU(),
        )

    def _stages(self) -> Iterable[nn.Module]:
        """Stages as mmdet3d groups them, except that each begins with its strided convolution."""
        config = self.config
        for index, channels in enumerate(config.channels):
            layers: list[nn.Module] = []
            if index:
                layers += _downsample(
                    config.channels[index - 1],
                    channels,
                    config.z_padding[index - 1],
                    config.algorithm,
                )
            layers += [
                SparseResidualBlock(channels, f"subm{index}", config.algorithm)
                for _ in range(config.blocks)
            ]
            yield spconv.SparseSequential(*layers)

    def forward(self, voxels: Voxels) -> Float32[Tensor, "b c h w"]:
        """BEV map, rows along y and columns along x; zero everywhere if no voxel is occupied."""
        config = self.config
        if not len(voxels.coords):
            _, rows, cols = config.voxels.shape
            size = (rows // config.stride, cols // config.stride)
            return voxels.mean.new_zeros(voxels.batch_size, config.out_channels, *size)
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


def _norm(channels: int) -> nn.BatchNorm1d:
    return nn.BatchNorm1d(channels, eps=NORM_EPS, momentum=NORM_MOMENTUM)


def _submanifold(
    in_channels: int, out_channels: int, key: str, algorithm: Algorithm
) -> spconv.SubMConv3d:
    return spconv.SubMConv3d(
        in_channels,
        out_channels,
        3,
        padding=1,
        bias=False,
        indice_key=key,
        algo=conv_algorithm(algorithm),
    )


def _downsample(
    in_channels: int, out_channels: int, z_padding: int, algorithm: Algorithm
) -> list[nn.Module]:
    conv = spconv.SparseConv3d(
        in_channels,
        out_channels,
        3,
        2,
        padding=(z_padding, 1, 1),
        bias=False,
        algo=conv_algorithm(algorithm),
    )
    return [conv, _norm(out_channels), nn.ReLU()]
