"""From the camera's frustum to the ground: image and stereo features at voxels in metres.

LIGA-Stereo's 3D geometric volume (its code, commit aee3731). Voxels lie in the
pseudo-LiDAR frame: x forward, y left, z up, the origin at the left camera.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, PositiveInt, model_validator
from torch import Tensor, nn

from nets.depth_net import DepthBins
from nets.depth_volume import DepthVolume, depth_distribution
from nets.hourglass import conv_norm
from nets.voxelize import VoxelGrid


class VoxelVolumeConfig(BaseModel):
    """Sizes; defaults are LIGA-Stereo's.

    Attributes:
        grid: Voxels.
        channels: Of the volume.
        pool_z: Voxels averaged along z at the end.
        groups: Of GroupNorm.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    grid: VoxelGrid = VoxelGrid(
        range_min=(2.0, -30.4, -3.0), range_max=(59.6, 30.4, 1.0), voxel_size=(0.2, 0.2, 0.2)
    )
    channels: PositiveInt = 32
    pool_z: PositiveInt = 4
    groups: PositiveInt = 32

    @model_validator(mode="after")
    def _whole_pools(self) -> "VoxelVolumeConfig":
        if self.grid.shape[0] % self.pool_z:
            raise ValueError(
                f"{self.grid.shape[0]} voxels along z: expected a multiple of pool_z {self.pool_z}"
            )
        return self

    @property
    def out_channels(self) -> int:
        """Of the BEV map: channels and heights merged."""
        return self.channels * (self.grid.shape[0] // self.pool_z)

    def centres(self) -> Float[Tensor, "z y x 3"]:
        """Of the voxels: x y z, metres."""
        grid = self.grid
        axes = [
            low + (torch.arange(count) + 0.5) * size
            for low, size, count in zip(
                grid.range_min, grid.voxel_size, reversed(grid.shape), strict=True
            )
        ]
        z, y, x = torch.meshgrid(*reversed(axes), indexing="ij")
        return torch.stack([x, y, z], -1)


class VoxelVolumeNet(nn.Module):
    """Sample stereo and semantic features at the voxels; one convolution; average along z.

    Args:
        config: Sizes.
        stereo_channels: Of the stereo volume.
        semantic_channels: Of the semantic features.
    """

    centres: Tensor

    def __init__(
        self, config: VoxelVolumeConfig, stereo_channels: int, semantic_channels: int
    ) -> None:
        super().__init__()
        self.register_buffer("centres", config.centres(), persistent=False)
        self.conv = nn.Sequential(
            conv_norm(
                3, stereo_channels + semantic_channels, config.channels, groups=config.groups
            ),
            nn.ReLU(inplace=True),
            nn.AvgPool3d((config.pool_z, 1, 1)),
        )

    def forward(
        self,
        depth: DepthVolume,
        semantic: Float[Tensor, "b cm hq wq"],
        image_from_voxel: Float[Tensor, "b 3 4"],
        image_size: tuple[int, int],
        bins: DepthBins,
    ) -> Float[Tensor, "b c z y x"]:
        """The volume.

        Args:
            depth: The stereo volume, and the planes' logits, which no gradient reaches.
            semantic: Features of the left image.
            image_from_voxel: Projects pseudo-LiDAR points to pixels of the (padded) left image.
            image_size: Of that image: height and width, pixels.
            bins: Of the depth distribution; its range is the stereo volume's.
        """
        at = torch.stack([self._to_unit(matrix, image_size, bins) for matrix in image_from_voxel])
        stereo = F.grid_sample(depth.volume.float(), at, align_corners=True)
        prob = depth_distribution(depth.plane_logit, image_size, bins)
        seen = F.grid_sample(prob[:, None], at, align_corners=True)
        flat = at[..., :2].flatten(2, 3)
        image = F.grid_sample(semantic.float(), flat, align_corners=True)
        image = image.view(*image.shape[:2], *at.shape[1:4])
        together = torch.cat([stereo, image * seen], 1)
        volume: Tensor = self.conv(together)
        return volume

    def _to_unit(
        self, matrix: Float[Tensor, "3 4"], size: tuple[int, int], bins: DepthBins
    ) -> Float[Tensor, "z y x 3"]:
        """Column, row and depth of each voxel, in ``grid_sample`` units, as LIGA scales them."""
        # In bfloat16 a pixel would be off by several.
        with torch.autocast(matrix.device.type, enabled=False):
            u, v, depth = (self.centres @ matrix[:, :3].T + matrix[:, 3]).unbind(-1)
        height, width = size
        unit = torch.stack(
            [
                u / depth / (width - 1),
                v / depth / (height - 1),
                (self.centres[..., 0] - bins.start) / (bins.stop - bins.start),
            ],
            -1,
        )
        return unit * 2 - 1
