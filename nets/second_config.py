"""Sizes of SECOND; apart from it, because importing spconv takes seconds."""

from pydantic import BaseModel, ConfigDict, PositiveInt, model_validator

from nets.anchor_head import AnchorHeadConfig
from nets.bev_head import BEVHeadConfig
from nets.same_ground import require_same_ground
from nets.voxel_encoder_config import Algorithm
from nets.voxelize import VoxelGrid

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
        if self.bev.head.groups:
            raise ValueError(
                f"bev.head.groups is {self.bev.head.groups}: SECOND has BatchNorm, set it to 0"
            )
        _, rows, cols = self.voxels.shape
        if (rows, cols) != tuple(STRIDE * cells for cells in self.bev.anchors.grid.shape):
            raise ValueError(
                f"{rows} x {cols} voxels (y, x), bev.anchors.grid {self.bev.anchors.grid.shape}: "
                f"expected {STRIDE} voxels a cell along both"
            )
        edge = tuple(STRIDE * size for size in self.voxels.voxel_size[:2])
        require_same_ground(self.bev.anchors.grid, self.voxels.range_min, edge, "voxels")
        if self.slices < 1:
            raise ValueError(f"{self.voxels.shape[0]} voxels along z are too few: take 7 or more")
        return self

    @property
    def classes(self) -> tuple[str, ...]:
        """What it detects, in the order of labels."""
        return tuple(kind.name for kind in self.bev.anchors.classes)

    @property
    def slices(self) -> int:
        """Slices of the sparse volume along z."""
        # One slice more than there are voxels; halved with padding 1, 1 and 0.
        depth = self.voxels.shape[0] + 1
        for padding in (1, 1, 0):
            depth = (depth + 2 * padding - 3) // 2 + 1
        return depth
