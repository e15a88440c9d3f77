"""UniDistill's detector: LiDAR, cameras or both to one BEV map, then the same for all kinds."""

from dataclasses import dataclass
from typing import Literal, TypeVar

from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from frames.boxes import BoxBatch
from frames.detection_classes import DETECTION_CLASSES
from frames.detections import Detections
from frames.grid import BEVGrid
from frames.sensor_input import Modality, SensorInput
from nets.bev_backbone import BEVBackbone, BEVBackboneConfig, BEVNeck
from nets.camera_encoder import CameraEncoder, CameraEncoderConfig
from nets.center_head import CenterHead, CenterHeadConfig, CenterMaps
from nets.depth_net import depth_terms
from nets.fit_together import check_fit, require_multiple
from nets.gated_fuser import GatedFuser
from nets.image_backbone import ImageBackboneConfig
from nets.iou_aware_decode import IouAwareDecodeConfig, decode_iou_aware
from nets.iou_aware_loss import IouAwareLoss, IouAwareLossConfig
from nets.lidar_encoder import LidarEncoding, build_lidar_encoder, grid_pairs
from nets.voxelize import voxelize

Config = TypeVar("Config", bound="BEVDetectorConfig")


class IouAwareHeadConfig(CenterHeadConfig):
    """The centre head as UniDistill has it."""

    iou: Literal[True] = True
    conv_bias: bool = True


class BEVDetectorConfig(BaseModel):
    """Parts of the network; they must fit together. Defaults are UniDistill's.

    Attributes:
        network: Tells networks apart in a TOML.
        grid: Of all BEV maps.
        lidar: Points to a BEV map; None: it sees no points.
        camera: Images to a BEV map; None: it sees no images.
        backbone: Low-level to high-level BEV map. Of both sensors, its input is the fused map.
        head: Heatmaps, box codes and their IoU.
        loss: Weights of the detection loss.
        decode: Maps to detections.
        depth_loss_weight: Weight of LiDAR depth supervision of the camera branch in training; 0,
            as UniDistill has it, opens no LiDAR file for it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: Literal["unidistill"] = "unidistill"
    grid: BEVGrid
    lidar: LidarEncoding | None = None
    camera: CameraEncoderConfig | None = None
    backbone: BEVBackboneConfig = BEVBackboneConfig()
    head: IouAwareHeadConfig = IouAwareHeadConfig()
    loss: IouAwareLossConfig = IouAwareLossConfig()
    decode: IouAwareDecodeConfig = IouAwareDecodeConfig()
    depth_loss_weight: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> "BEVDetectorConfig":
        encoders = [encoder for encoder in (self.lidar, self.camera) if encoder is not None]
        if not encoders:
            raise ValueError("a detector sees something: give it lidar, camera or both")
        if self.camera is None and self.depth_loss_weight:
            raise ValueError("depth_loss_weight: only a camera branch is taught depth; leave it 0")
        pairs: dict[str, tuple[object, object]] = {
            "head.in_channels": (self.head.in_channels, self.backbone.out_channels)
        }
        if len(encoders) == 1:
            found, given = self.backbone.in_channels, encoders[0].out_channels
            pairs["backbone.in_channels"] = (found, given)
        check_fit(pairs | (grid_pairs(self.grid, self.lidar) if self.lidar else {}))
        stride = self.backbone.total_strides[-1]
        require_multiple("grid.shape", self.grid.shape, stride, "the backbone's")
        return self

    @property
    def kind(self) -> Modality:
        """What it sees."""
        if self.lidar is None:
            return "camera"
        return "lidar" if self.camera is None else "fusion"

    @property
    def image(self) -> ImageBackboneConfig | None:
        """Of its camera branch."""
        return self.camera.image if self.camera else None

    @property
    def classes(self) -> tuple[str, ...]:
        """What it detects, in the order of labels."""
        return DETECTION_CLASSES

    @property
    def depth_stride(self) -> int | None:
        """Pixels between depths that it is taught; None: it is not."""
        return self.camera.depth.stride if self.camera and self.depth_loss_weight else None

    @property
    def low_channels(self) -> int:
        """Of the map before the BEV backbone."""
        return self.backbone.in_channels

    @property
    def high_channels(self) -> int:
        """Of the one after its neck."""
        return self.backbone.out_channels

    @property
    def branch_channels(self) -> tuple[int, int] | None:
        """Of the LiDAR's map and of the cameras', where there are two."""
        if self.lidar is None or self.camera is None:
            return None
        return self.lidar.out_channels, self.camera.out_channels

    def without_pretraining(self: Config) -> Config:
        """The same network, its image backbone not fetched: for weights from a checkpoint."""
        camera = self.camera and self.camera.without_pretraining()
        return self.model_copy(update={"camera": camera})


@dataclass(frozen=True, slots=True)
class BEVMaps:
    """All that is computed for a batch.

    Attributes:
        bev_low: Before the BEV backbone; of both sensors, the fused map.
        bev_high: After its neck.
        head: Heatmap logits and box codes.
        bev_lidar: The LiDAR branch's map, where there are two.
        bev_camera: The camera branch's, likewise.
        depth_logit: Of every image cell, where there are cameras.
    """

    bev_low: Float[Tensor, "b _ h w"]
    bev_high: Float[Tensor, "b _ h w"]
    head: CenterMaps
    bev_lidar: Float[Tensor, "b _ h w"] | None = None
    bev_camera: Float[Tensor, "b _ h w"] | None = None
    depth_logit: Float[Tensor, "b n d rows cols"] | None = None


class BEVDetector(nn.Module):
    """The detector and its loss, whose uncertainties are learned."""

    def __init__(self, config: BEVDetectorConfig) -> None:
        super().__init__()
        self.config = config
        self.lidar = build_lidar_encoder(config.lidar) if config.lidar else None
        self.camera = CameraEncoder(config.camera, config.grid) if config.camera else None
        self.fuser = None
        if config.lidar and config.camera:
            both = config.lidar.out_channels + config.camera.out_channels
            self.fuser = GatedFuser(both, config.backbone.in_channels)
        self.backbone = BEVBackbone(config.backbone)
        self.neck = BEVNeck(config.backbone)
        self.head = CenterHead(config.head)
        self.loss = IouAwareLoss(config.loss)

    def forward(self, seen: SensorInput) -> BEVMaps:
        """Maps of a batch."""
        lidar, camera, depth_logit = self._lidar_map(seen), None, None
        if self.camera is not None:
            assert seen.cameras is not None, "the reader of a camera network reads images"
            camera, depth_logit = self.camera(seen.cameras)
        branches = {"bev_lidar": lidar, "bev_camera": camera}
        if self.fuser is not None:
            low = self.fuser(lidar, camera)
        else:
            low, branches = (camera if lidar is None else lidar), {}
        high = self.neck(self.backbone(low))
        return BEVMaps(low, high, self.head(high), depth_logit=depth_logit, **branches)

    def _lidar_map(self, seen: SensorInput) -> Tensor | None:
        if self.lidar is None or self.config.lidar is None:
            return None
        assert seen.points is not None, "the reader of a LiDAR network reads points"
        low: Tensor = self.lidar(voxelize(list(seen.points), self.config.lidar.voxels))
        return low

    def detection_terms(self, head: CenterMaps, boxes: BoxBatch) -> dict[str, Tensor]:
        """Weighted terms of the detection loss."""
        terms: dict[str, Tensor] = self.loss(head, boxes, self.config.grid)
        return terms

    def depth_terms(
        self, depth_logit: Float[Tensor, "b n d rows cols"] | None, seen: SensorInput
    ) -> dict[str, Tensor]:
        """The weighted term "depth", where it is taught."""
        if self.config.camera is None:
            return {}
        bins, weight = self.config.camera.depth.bins, self.config.depth_loss_weight
        return depth_terms(depth_logit, seen.cameras, bins, weight)

    def detections(self, head: CenterMaps) -> list[Detections]:
        """Decoded boxes of each frame."""
        return decode_iou_aware(head, self.config.grid, self.config.decode)
