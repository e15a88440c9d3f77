"""SimDistill's student: BEVFusion's topology on images alone, its LiDAR branch simulated.

Image features are lifted twice; one map stands for the LiDAR's, the other is the cameras'. Geometry
compensation refines the image features before a lift, and the simulated LiDAR map after it
(docs/simdistill.md). No points are ever seen: the release's view transform takes them, at test
time too, and so does not show what a camera student can do.
"""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveInt, model_validator
from torch import Tensor, nn

from frames.camera_geometry import CameraGeometry
from frames.sensor_input import Modality, SensorInput
from nets.bev_detector import BEVMaps
from nets.bev_lift import BEVLift
from nets.deformable_attention import CompensationConfig, GeometryCompensation
from nets.fused_detector import FusedDetector, FusedDetectorConfig


class SimulatedFusionConfig(FusedDetectorConfig):
    """The parts, and how geometry is compensated.

    Attributes:
        network: Tells networks apart in a TOML.
        image_size: (height, width) of the images, pixels: positions in them are learned.
        in_image: Compensation of image features; None: there is none.
        in_bev: Compensation of the simulated LiDAR map; None: there is none.
        compensated: Before which lifts image features are compensated: both, as every view
            transform of the release does, or the simulated LiDAR's alone.
        shared_lift: One view transform for both, as the release has by mistake.
    """

    network: Literal["simulated_fusion"] = "simulated_fusion"
    image_size: tuple[PositiveInt, PositiveInt] = (256, 704)
    in_image: CompensationConfig | None = CompensationConfig()
    in_bev: CompensationConfig | None = CompensationConfig(points=20)
    compensated: Literal["both", "lidar"] = "both"
    shared_lift: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> "SimulatedFusionConfig":
        if self.shared_lift and self.compensated != "both":
            raise ValueError('shared_lift: one view transform is both\'s; set compensated = "both"')
        self.image.check_size("image_size", self.image_size)
        if self.in_image:
            self.in_image.check(self.image.out_channels)
        if self.in_bev:
            self.in_bev.check(self.lift.out_channels)
        return self

    @property
    def kind(self) -> Modality:
        """What it sees."""
        return "camera"


class ViewBranch(nn.Module):
    """Image features, compensated or not, to one BEV map."""

    def __init__(self, config: SimulatedFusionConfig, *, compensated: bool) -> None:
        super().__init__()
        stride = config.image.stride
        shape = config.image_size[0] // stride, config.image_size[1] // stride
        self.compensation: nn.Module = (
            GeometryCompensation(config.in_image, config.image.out_channels, shape)
            if config.in_image and compensated
            else nn.Identity()
        )
        self.lift = BEVLift(config.lift, config.grid)

    def forward(
        self, features: Float[Tensor, "b n _ rows cols"], geometry: CameraGeometry
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b n d rows cols"]]:
        """The BEV map, and the depth logits of every image cell."""
        better = self.compensation(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        maps: tuple[Tensor, Tensor] = self.lift(better, geometry)
        return maps


class SimulatedFusion(FusedDetector):
    """The camera detector with two branches."""

    config: SimulatedFusionConfig

    def __init__(self, config: SimulatedFusionConfig) -> None:
        width = config.lift.out_channels
        super().__init__(config, 2 * width)
        self.lidar_view = ViewBranch(config, compensated=True)
        self.camera_view = (
            None
            if config.shared_lift
            else ViewBranch(config, compensated=config.compensated == "both")
        )
        self.compensation: nn.Module = (
            GeometryCompensation(config.in_bev, width, config.grid.shape)
            if config.in_bev
            else nn.Identity()
        )

    def forward(self, seen: SensorInput) -> BEVMaps:
        """Maps of a batch: ``bev_lidar`` is simulated, ``depth_logit`` that of all lifts."""
        assert seen.cameras is not None, "the reader of a camera network reads images"
        geometry = seen.cameras.geometry
        features = self.image(seen.cameras.images)
        lifted, depth_logit = self.lidar_view(features, geometry)
        camera = lifted
        if self.camera_view is not None:
            camera, other = self.camera_view(features, geometry)
            depth_logit = torch.cat([depth_logit, other], dim=1)
        lidar = self.compensation(lifted)
        low, high, head = self.fused([lidar, camera])
        return BEVMaps(low, high, head, lidar, camera, depth_logit)
