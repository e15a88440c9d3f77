"""The multi-camera student, BEVDepth's shape: images, depth, lift-splat, BEV backbone, head."""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from frames.boxes import BoxBatch
from frames.camera_input import CameraInput
from frames.detection_classes import DETECTION_CLASSES
from frames.detections import Detections
from frames.grid import BEVGrid
from nets.bev_backbone import BEVBackbone, BEVBackboneConfig, BEVNeck
from nets.center_decode import CenterDecodeConfig, decode
from nets.center_head import CenterHead, CenterHeadConfig
from nets.center_loss import CenterLossConfig, center_loss
from nets.depth_net import DepthNet, DepthNetConfig, depth_loss, depth_target
from nets.fit_together import check_fit
from nets.image_backbone import ImageBackbone, ImageBackboneConfig
from nets.view_transform import ViewTransform, ViewTransformConfig
from store.schema import Target
from student_train.methods.base import StudentMaps
from student_train.students.base import Student, StudentOutput


class CameraStudentConfig(BaseModel):
    """Parts of the network; they must fit together. Defaults are BEVDepth's where it has them.

    Attributes:
        network: Tells students apart in a TOML.
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

    network: Literal["bevdepth"] = "bevdepth"
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
    def _fits(self) -> "CameraStudentConfig":
        pairs: dict[str, tuple[object, object]] = {
            "depth.in_channels": (self.depth.in_channels, self.image.out_channels),
            "depth.stride": (self.depth.stride, self.image.stride),
            "backbone.in_channels": (self.backbone.in_channels, self.depth.context_channels),
            "head.in_channels": (self.head.in_channels, self.backbone.out_channels),
            "decode.circle_squared entries": (
                len(self.decode.circle_squared),
                len(self.head.tasks),
            ),
        }
        check_fit(pairs)
        return self

    @property
    def channels(self) -> Mapping[Target, int]:
        """Channels of the BEV maps that methods may read."""
        return {
            Target.BEV_LOW: self.backbone.in_channels,
            Target.BEV_HIGH: self.backbone.out_channels,
        }

    @property
    def anchors(self) -> None:
        """Its head has none."""

    @property
    def classes(self) -> tuple[str, ...]:
        """What it detects, in the order of labels."""
        return DETECTION_CLASSES

    def without_pretraining(self) -> "CameraStudentConfig":
        """The same network, its image backbone not fetched: for weights from a checkpoint."""
        image = self.image.model_copy(update={"pretrained": False})
        return self.model_copy(update={"image": image})


class CameraStudent(Student):
    """The camera detector."""

    def __init__(self, config: CameraStudentConfig) -> None:
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

    def forward(self, seen: CameraInput) -> StudentOutput:
        """See :class:`Student`."""
        lifted = self.depth(self.image(seen.images), seen.geometry)
        low = self.lift(lifted, seen.geometry)
        high = self.neck(self.backbone(low))
        features = {Target.BEV_LOW: low, Target.BEV_HIGH: high}
        return StudentOutput(StudentMaps(features, self.head(high)), lifted.depth_logit)

    def detection_terms(self, output: StudentOutput, boxes: BoxBatch) -> dict[str, Tensor]:
        """See :class:`Student`."""
        return center_loss(output.maps.center, boxes, self.config.grid, self.config.loss)

    def auxiliary_terms(
        self, output: StudentOutput, seen: CameraInput, _boxes: BoxBatch
    ) -> dict[str, Tensor]:
        """See :class:`Student`."""
        if seen.depth is None or output.depth_logit is None:
            return {}
        # The reader has already pooled to the features' stride.
        bins = depth_target(seen.depth, 1, self.config.depth.bins)
        return {"depth": self.config.depth_loss_weight * depth_loss(output.depth_logit, bins)}

    def detections(self, output: StudentOutput) -> list[Detections]:
        """See :class:`Student`."""
        return decode(output.maps.center, self.config.grid, self.config.decode)
