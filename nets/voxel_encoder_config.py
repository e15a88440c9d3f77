"""Sizes of the voxel encoder; apart from it, because importing spconv takes seconds."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, PositiveInt, model_validator

from nets.fit_together import require_multiple
from nets.voxelize import VoxelGrid

OUT_KERNEL_Z = 3
Algorithm = Literal["auto", "native"]


class VoxelEncoderConfig(BaseModel):
    """Sizes; defaults are the LiDAR teacher's (mmdet3d centerpoint_01voxel_second_secfpn).

    Attributes:
        voxels: Range and voxel size.
        in_channels: Point columns (x, y, z, intensity, time lag).
        channels: Width of each stage; every stage but the first begins with a stride of 2.
        z_padding: Padding along z of each of those strided convolutions.
        blocks: Residual blocks in each stage.
        algorithm: spconv's convolution algorithm; "auto" picks what suits the device.
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
        require_multiple("voxels (y, x)", self.voxels.shape[1:], self.stride, "the encoder's")
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
