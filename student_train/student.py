"""The multi-camera student, BEVDepth's shape: images, depth, lift-splat, BEV backbone, head."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float, UInt8
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from frames.grid import BEVGrid
from nets.bev_backbone import BEVBackbone, BEVBackboneConfig, BEVNeck
from nets.camera_geometry import CameraGeometry
from nets.center_decode import CenterDecodeConfig
from nets.center_head import CenterHead, CenterHeadConfig
from nets.center_loss import CenterLossConfig
from nets.depth_net import DepthNet, DepthNetConfig
from nets.image_backbone import ImageBackbone, ImageBackboneConfig
from nets.view_transform import ViewTransform, ViewTransformConfig
from store.schema import Target
from student_train.methods.base import StudentMaps


class StudentConfig(BaseModel):
    """Parts of the network; they must fit together. Defaults are BEVDepth's where it has them.

    Attributes:
        grid: Of all BEV maps.
        image: Image backbone and neck.
        depth: Depth distribution and context of every image cell.
        z_range: Heights that are lifted, metres.
        backbone: Low-level to high-level BEV map.
        head: Heatmaps and box codes.
        loss: Weights of the detection loss.
        decode: Maps to detections.
        depth_loss_weight: Weight of LiDAR depth supervision in training; 0 opens no LiDAR file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    grid: BEVGrid
    image: ImageBackboneConfig = ImageBackboneConfig()
    depth: DepthNetConfig = DepthNetConfig()
    z_range: tuple[float, float] = (-5.0, 3.0)
    backbone: BEVBackboneConfig = BEVBackboneConfig(in_channels=80)
    head: CenterHeadConfig = CenterHeadConfig()
    loss: CenterLossConfig = CenterLossConfig()
    decode: CenterDecodeConfig = CenterDecodeConfig()
    depth_loss_weight: float = Field(3.0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> "StudentConfig":
        pairs = {
            "depth.in_channels": (self.depth.in_channels, self.image.out_channels),
            "depth.stride": (self.depth.stride, self.image.stride),
            "backbone.in_channels": (self.backbone.in_channels, self.depth.context_channels),
            "head.in_channels": (self.head.in_channels, self.backbone.out_channels),
            "decode.circle_squared entries": (
                len(self.decode.circle_squared),
                len(self.head.tasks),
            ),
        }
        wrong = [f"{k} is {a}, its input gives {b}" for k, (a, b) in pairs.items() if a != b]
        if wrong:
            raise ValueError("parts do not fit together: " + "; ".join(wrong))
        return self

    @property
    def channels(self) -> Mapping[Target, int]:
        """Channels of the BEV maps that methods may read."""
        return {
            Target.BEV_LOW: self.backbone.in_channels,
            Target.BEV_HIGH: self.backbone.out_channels,
        }

    def without_pretraining(self) -> "StudentConfig":
        """The same network, its image backbone not fetched: for weights from a checkpoint."""
        image = self.image.model_copy(update={"pretrained": False})
        return self.model_copy(update={"image": image})


@dataclass(frozen=True, slots=True)
class StudentOutput:
    """Maps of a batch, and the depth logits that supervision reads."""

    maps: StudentMaps
    depth_logit: Float[Tensor, "b v d h w"]


class Student(nn.Module):
    """The camera detector."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        self.image = ImageBackbone(config.image)
        self.depth = DepthNet(config.depth)
        self.lift = ViewTransform(
            ViewTransformConfig(
                grid=config.grid,
                bins=config.depth.bins,
                stride=config.depth.stride,
                z_range=config.z_range,
            )
        )
        self.backbone = BEVBackbone(config.backbone)
        self.neck = BEVNeck(config.backbone)
        self.head = CenterHead(config.head)

    def forward(
        self, images: UInt8[Tensor, "b v 3 h w"], geometry: CameraGeometry
    ) -> StudentOutput:
        """Everything the detection loss and the methods read."""
        lifted = self.depth(self.image(images), geometry)
        low = self.lift(lifted, geometry)
        high = self.neck(self.backbone(low))
        features = {Target.BEV_LOW: low, Target.BEV_HIGH: high}
        return StudentOutput(StudentMaps(features, self.head(high)), lifted.depth_logit)
