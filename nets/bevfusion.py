"""BEVFusion's topology: a camera and a LiDAR branch, ConvFuser, decoder, centre head.

SimDistill's teacher (commit 2d0d5eb), with differences (docs/simdistill.md): its cameras see no
points (the release's DepthLSS does), and it has no deformable attention.
"""

from typing import Literal

from pydantic import model_validator

from frames.sensor_input import Modality, SensorInput
from nets.bev_detector import BEVMaps
from nets.bev_lift import BEVLift
from nets.fit_together import check_fit
from nets.fused_detector import FusedDetector, FusedDetectorConfig
from nets.lidar_encoder import LidarEncoding, build_lidar_encoder, grid_pairs
from nets.voxelize import voxelize


class BEVFusionConfig(FusedDetectorConfig):
    """The parts, and points to a BEV map.

    Attributes:
        network: Tells networks apart in a TOML.
        lidar: Points to a BEV map.
    """

    network: Literal["bevfusion"] = "bevfusion"
    lidar: LidarEncoding

    @model_validator(mode="after")
    def _on_the_grid(self) -> "BEVFusionConfig":
        check_fit(grid_pairs(self.grid, self.lidar))
        return self

    @property
    def kind(self) -> Modality:
        """What it sees."""
        return "fusion"

    @property
    def branch_channels(self) -> tuple[int, int]:
        """Of the LiDAR's map and of the cameras'."""
        return self.lidar.out_channels, self.lift.out_channels


class BEVFusion(FusedDetector):
    """The fusion detector."""

    config: BEVFusionConfig

    def __init__(self, config: BEVFusionConfig) -> None:
        super().__init__(config, sum(config.branch_channels))
        self.lidar = build_lidar_encoder(config.lidar)
        self.lift = BEVLift(config.lift, config.grid)

    def forward(self, seen: SensorInput) -> BEVMaps:
        """Maps of a batch."""
        assert seen.points is not None, "the reader of a fusion network reads points"
        assert seen.cameras is not None, "and images"
        lidar = self.lidar(voxelize(list(seen.points), self.config.lidar.voxels))
        camera, depth_logit = self.lift(self.image(seen.cameras.images), seen.cameras.geometry)
        # Cameras first, as released; the student's fuser takes them last, as released too.
        low, high, head = self.fused([camera, lidar])
        return BEVMaps(low, high, head, lidar, camera, depth_logit)
