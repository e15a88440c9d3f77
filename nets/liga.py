"""LIGA-Stereo: two images to anchors on the ground; StereoDistill's student.

Guo et al., ICCV 2021; its code, commit aee3731. Its auxiliary 2D head, of use in
training alone, stands apart: ``nets/aux_head_2d.py``.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor, nn

from nets.bev_head import BEVHead, BEVHeadConfig, BEVHeadMaps
from nets.depth_volume import DepthVolumeConfig, DepthVolumeNet
from nets.geometric_volume import VoxelVolumeConfig, VoxelVolumeNet
from nets.same_ground import require_same_ground
from nets.stereo_backbone import StereoBackbone, StereoBackboneConfig


class LigaConfig(BaseModel):
    """Sizes; defaults are LIGA-Stereo's for KITTI.

    Attributes:
        backbone: Image network.
        depth: Stereo volume.
        voxels: 3D geometric volume.
        bev: From the BEV map to anchors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: StereoBackboneConfig = StereoBackboneConfig()
    depth: DepthVolumeConfig = DepthVolumeConfig()
    voxels: VoxelVolumeConfig = VoxelVolumeConfig()
    bev: BEVHeadConfig = BEVHeadConfig()

    @model_validator(mode="after")
    def _one_map(self) -> "LigaConfig":
        cells, anchors = self.voxels.grid.shape[1:], self.bev.anchors.grid.shape
        if cells != anchors:
            raise ValueError(
                f"voxels.grid has {cells} cells (y, x), bev.anchors.grid {anchors}: they must be "
                "the same map"
            )
        grid, planes = self.voxels.grid, self.depth.planes
        require_same_ground(self.bev.anchors.grid, grid.range_min, grid.voxel_size[:2], "voxels")
        if planes.start > grid.range_min[0] or planes.stop < grid.range_max[0]:
            raise ValueError(
                f"depth.planes reach from {planes.start} to {planes.stop} m, the voxels from "
                f"{grid.range_min[0]} to {grid.range_max[0]} m: planes must reach as far"
            )
        return self


@dataclass(frozen=True, slots=True)
class LigaMaps:
    """What the student says of a batch of image pairs.

    Attributes:
        semantic: What is seen in the left image, at a quarter of its resolution.
        plane_logit: Of each plane of the stereo volume: how deep a pixel lies.
        volume: 3D geometric volume (V_3d), averaged along z, heights merged into channels.
        bev: On the ground.
    """

    semantic: Float[Tensor, "b cm hq wq"]
    plane_logit: Float[Tensor, "b d hs ws"]
    volume: Float[Tensor, "b cz y x"]
    bev: BEVHeadMaps


class LigaStereo(nn.Module):
    """The network; cameras may differ from image to image."""

    def __init__(self, config: LigaConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = StereoBackbone(config.backbone)
        self.depth = DepthVolumeNet(config.depth, config.backbone.up[1])
        self.voxels = VoxelVolumeNet(
            config.voxels, config.depth.channels, config.backbone.semantic[1]
        )
        self.bev = BEVHead(config.bev, config.voxels.out_channels)

    def forward(
        self,
        left: Float[Tensor, "b 3 h w"],
        right: Float[Tensor, "b 3 h w"],
        focal_baseline: Float[Tensor, " b"],
        image_from_voxel: Float[Tensor, "b 3 4"],
    ) -> LigaMaps:
        """Detect in image pairs.

        Args:
            left: Normalised, cropped and padded.
            right: Likewise.
            focal_baseline: Focal length x distance between the cameras, pixels x metres.
            image_from_voxel: Projects pseudo-LiDAR points to pixels of the left image as given.
        """
        height, width = left.shape[2:]
        seen = self.backbone(torch.cat([left, right]))
        stereo = seen.stereo.chunk(2)
        depth = self.depth(*stereo, focal_baseline)
        semantic = seen.semantic[: len(left)]
        bins = self.config.depth.bins
        volume = self.voxels(depth, semantic, image_from_voxel, (height, width), bins)
        merged = volume.flatten(1, 2)
        return LigaMaps(semantic, depth.plane_logit, merged, self.bev(merged))
