"""From points to a BEV map: sparse voxels or pillars, chosen by ``kind``."""

from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from frames.grid import BEVGrid
from nets.pillar_encoder import PillarEncoder, PillarEncoderConfig
from nets.voxel_encoder_config import VoxelEncoderConfig
from nets.voxelize import VoxelGrid


class VoxelEncoding(VoxelEncoderConfig):
    """The sparse encoder, chosen by ``kind = "voxel"``."""

    kind: Literal["voxel"]


class PillarEncoding(PillarEncoderConfig):
    """The pillar encoder, chosen by ``kind = "pillar"``."""

    kind: Literal["pillar"]

    @property
    def out_channels(self) -> int:
        """Channels of the BEV map."""
        return self.channels


LidarEncoding = Annotated[VoxelEncoding | PillarEncoding, Field(discriminator="kind")]


def grid_pairs(
    grid: BEVGrid, encoding: VoxelEncoding | PillarEncoding
) -> dict[str, tuple[object, object]]:
    """What must be equal for the encoder's map to lie on the grid: by name, (found, given)."""
    voxels: VoxelGrid = encoding.voxels
    cell = round(voxels.voxel_size[0] * encoding.stride, 6)
    rows, cols = (size // encoding.stride for size in voxels.shape[1:])
    return {
        "grid.cell_size": (round(grid.cell_size, 6), cell),
        "grid.shape": (grid.shape, (rows, cols)),
        "grid.x_min, y_min": ((grid.x_min, grid.y_min), tuple(voxels.range_min[:2])),
    }


def build_lidar_encoder(encoding: VoxelEncoding | PillarEncoding) -> nn.Module:
    """The network, from ``Voxels`` to (b, c, h, w), with fresh weights."""
    if isinstance(encoding, PillarEncoding):
        return PillarEncoder(encoding)
    # Here, for spconv takes seconds to import and pillars need none of it.
    from nets.voxel_encoder import VoxelEncoder

    return VoxelEncoder(encoding)
