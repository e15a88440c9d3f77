"""The multi-camera student, BEVDepth's shape: images, depth, lift-splat, BEV backbone, head."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    NegativeInt,
    Tag,
    model_validator,
)
from torch import Tensor

from frames.boxes import BoxBatch
from frames.detection_classes import DETECTION_CLASSES
from frames.detections import Detections
from frames.grid import BEVGrid
from frames.sensor_input import SensorInput
from nets.bev_backbone import BEVBackbone, BEVBackboneConfig, BEVNeck
from nets.bev_resnet import BEVResNet, BEVResNetConfig
from nets.center_decode import CenterDecodeConfig, decode
from nets.center_head import CenterHead, CenterHeadConfig
from nets.center_loss import CenterLossConfig, center_loss
from nets.depth_net import DepthNet, DepthNetConfig, depth_terms
from nets.fit_together import check_fit, require_multiple
from nets.image_backbone import ImageBackbone, ImageBackboneConfig
from nets.view_transform import ViewTransform, ViewTransformConfig
from store.schema import Target
from student_train.methods.base import StudentMaps
from student_train.students.base import Student, StudentOutput

HALF = 2  # stride of half resolution


def _backbone(values: Any) -> Any:
    """What the config says it is; SECOND's where it says nothing, as the first runs did."""
    if isinstance(values, dict):
        return values.get("kind", "second")
    return getattr(values, "kind", "second")


BackboneConfig = Annotated[
    Annotated[BEVBackboneConfig, Tag("second")] | Annotated[BEVResNetConfig, Tag("resnet")],
    Discriminator(_backbone),
]


class CameraStudentConfig(BaseModel):
    """Parts of the network; they must fit together. Defaults are BEVDepth's where it has them.

    Attributes:
        network: Tells students apart in a TOML.
        grid: Of all BEV maps.
        image: Image backbone and neck.
        depth: Depth distribution and context of every image cell.
        z_range: Heights that are lifted, metres.
        past: Earlier key frames it looks at too, counted from the frame: (-2, -4) are 1 and 2 s
            ago in nuScenes. Their BEV maps are concatenated after the frame's own.
        past_grad: Whether gradient flows into what is computed of them; BEVDepth has none.
        backbone: Low-level to high-level BEV map: SECOND's, or with ``kind = "resnet"`` BEVDepth's.
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
    past: tuple[NegativeInt, ...] = ()
    past_grad: bool = False
    backbone: BackboneConfig = BEVBackboneConfig(in_channels=80)
    head: CenterHeadConfig = CenterHeadConfig()
    loss: CenterLossConfig = CenterLossConfig()
    decode: CenterDecodeConfig = CenterDecodeConfig()
    depth_loss_weight: float = Field(3.0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> "CameraStudentConfig":
        pairs: dict[str, tuple[object, object]] = {
            "depth.in_channels": (self.depth.in_channels, self.image.out_channels),
            "depth.stride": (self.depth.stride, self.image.stride),
            "backbone.in_channels": (
                self.backbone.in_channels,
                self.frames * self.depth.context_channels,
            ),
            "head.in_channels": (self.head.in_channels, self.backbone.out_channels),
            "decode.circle_squared entries": (
                len(self.decode.circle_squared),
                len(self.head.tasks),
            ),
        }
        check_fit(pairs)
        stride = self.backbone.total_strides[-1]
        require_multiple("grid.shape", self.grid.shape, stride, "the backbone's")
        return self

    @property
    def frames(self) -> int:
        """Time steps that it looks at."""
        return 1 + len(self.past)

    @property
    def depth_stride(self) -> int | None:
        """Pixels of an image to a cell of the depth that it is taught; None: it is not taught."""
        return self.depth.stride if self.depth_loss_weight > 0 else None

    @property
    def half_stage(self) -> int | None:
        """Which of the backbone's maps is the first at half resolution, if one is."""
        strides = self.backbone.total_strides
        return strides.index(HALF) if HALF in strides else None

    @property
    def channels(self) -> Mapping[Target, int]:
        """Channels of the BEV maps that methods may read."""
        half = self.half_stage
        return {
            Target.BEV_LOW: self.backbone.in_channels,
            Target.BEV_HIGH: self.backbone.out_channels,
            **({} if half is None else {Target.STAGE_1: self.backbone.channels[half]}),
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
        self.backbone = (
            BEVResNet(config.backbone)
            if isinstance(config.backbone, BEVResNetConfig)
            else BEVBackbone(config.backbone)
        )
        self.neck = BEVNeck(config.backbone)
        self.head = CenterHead(config.head)

    def forward(self, seen: SensorInput) -> StudentOutput:
        """See :class:`Student`."""
        assert seen.cameras is not None, "its reader reads images"
        geometry = seen.cameras.geometry
        lifted = self.depth(self.image(seen.cameras.images), geometry)
        steps = [self.lift(lifted, geometry)]
        with torch.set_grad_enabled(self.config.past_grad and torch.is_grad_enabled()):
            for past in seen.cameras.past:
                # The depth network is told the key frame's calibration, as BEVDepth does.
                earlier = self.depth(self.image(past.images), geometry)
                steps.append(self.lift(earlier, past.geometry))
        low = torch.cat(steps, dim=1)
        # BEVDepth leaves half precision before its BEV backbone.
        with torch.autocast(low.device.type, enabled=False):
            stages = self.backbone(low)
            high = self.neck(stages)
            head = self.head(high)
        features = {Target.BEV_LOW: low, Target.BEV_HIGH: high}
        if self.config.half_stage is not None:
            features[Target.STAGE_1] = stages[self.config.half_stage]
        return StudentOutput(StudentMaps(features, head), lifted.depth_logit)

    def detection_terms(self, output: StudentOutput, boxes: BoxBatch) -> dict[str, Tensor]:
        """See :class:`Student`."""
        return center_loss(output.maps.center, boxes, self.config.grid, self.config.loss)

    def auxiliary_terms(
        self, output: StudentOutput, seen: SensorInput, _boxes: BoxBatch
    ) -> dict[str, Tensor]:
        """See :class:`Student`."""
        bins, weight = self.config.depth.bins, self.config.depth_loss_weight
        return depth_terms(output.depth_logit, seen.cameras, bins, weight)

    def detections(self, output: StudentOutput) -> list[Detections]:
        """See :class:`Student`."""
        return decode(output.maps.center, self.config.grid, self.config.decode)
