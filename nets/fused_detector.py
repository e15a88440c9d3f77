"""What SimDistill's teacher and student share: two BEV maps fused, decoded, read by a centre head.

One is BEVFusion's (``nets/bevfusion.py``), whose second map comes from points; the other simulates
it from images (``nets/simulated_fusion.py``).
"""

from collections.abc import Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from frames.boxes import BoxBatch
from frames.detection_classes import DETECTION_CLASSES
from frames.detections import Detections
from frames.grid import BEVGrid
from frames.sensor_input import SensorInput
from nets.bev_lift import BEVLiftConfig
from nets.blocks import conv_norm_relu
from nets.center_decode import CenterDecodeConfig, decode
from nets.center_head import CenterHead, CenterHeadConfig, CenterMaps
from nets.center_loss import CenterLossConfig, center_loss
from nets.depth_net import depth_terms
from nets.fit_together import check_fit, require_multiple
from nets.image_backbone import ImageBackbone, ImageBackboneConfig
from nets.residual_decoder import ResidualDecoder, ResidualDecoderConfig

Config = TypeVar("Config", bound="FusedDetectorConfig")


class FusedDetectorConfig(BaseModel):
    """Parts that both have; they must fit together.

    Attributes:
        grid: Of all BEV maps.
        image: Image backbone and neck.
        lift: Image features to a BEV map.
        decoder: Fused to decoded BEV map; its input is as wide as the fused one.
        head: Heatmaps and box codes.
        loss: Weights of the detection loss.
        decode: Maps to detections.
        depth_loss_weight: Weight of LiDAR depth supervision of every lift in training; 0, as
            SimDistill has it, opens no LiDAR file for it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    grid: BEVGrid
    image: ImageBackboneConfig = ImageBackboneConfig(
        level_strides=(8, 16, 32), stride=8, up_channels=256, merge="sum"
    )
    lift: BEVLiftConfig = BEVLiftConfig()
    decoder: ResidualDecoderConfig = ResidualDecoderConfig()
    head: CenterHeadConfig = CenterHeadConfig(in_channels=256)
    loss: CenterLossConfig = CenterLossConfig()
    decode: CenterDecodeConfig = CenterDecodeConfig()
    depth_loss_weight: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _parts_fit(self) -> "FusedDetectorConfig":
        check_fit(
            {
                "lift.depth.in_channels": (self.lift.depth.in_channels, self.image.out_channels),
                "lift.depth.stride": (self.lift.depth.stride, self.image.stride),
                "head.in_channels": (self.head.in_channels, self.decoder.out_channels),
                "decode.circle_squared entries": (
                    len(self.decode.circle_squared),
                    len(self.head.tasks),
                ),
            }
        )
        require_multiple("grid.shape", self.grid.shape, self.decoder.total_stride, "the decoder's")
        return self

    @property
    def classes(self) -> tuple[str, ...]:
        """What it detects, in the order of labels."""
        return DETECTION_CLASSES

    @property
    def low_channels(self) -> int:
        """Of the fused map."""
        return self.decoder.in_channels

    @property
    def high_channels(self) -> int:
        """Of the decoded one."""
        return self.decoder.out_channels

    @property
    def depth_stride(self) -> int | None:
        """Pixels between depths that it is taught; None: it is not."""
        return self.lift.depth.stride if self.depth_loss_weight else None

    def without_pretraining(self: Config) -> Config:
        """The same network, its image backbone not fetched: for weights from a checkpoint."""
        image = self.image.model_copy(update={"pretrained": False})
        return self.model_copy(update={"image": image})


class FusedDetector(nn.Module):
    """The image backbone, and all that comes behind the two maps.

    Args:
        config: Sizes.
        branches: Channels of both maps together.
    """

    def __init__(self, config: FusedDetectorConfig, branches: int) -> None:
        super().__init__()
        self.config = config
        self.image = ImageBackbone(config.image)
        self.fuser = conv_norm_relu(branches, config.low_channels)
        self.decoder = ResidualDecoder(config.decoder)
        self.head = CenterHead(config.head)

    def fused(
        self, branches: Sequence[Float[Tensor, "b _ h w"]]
    ) -> tuple[Float[Tensor, "b _ h w"], Float[Tensor, "b _ h w"], CenterMaps]:
        """The fused map, the decoded one, and what the head says."""
        low = self.fuser(torch.cat(list(branches), dim=1))
        high = self.decoder(low)
        return low, high, self.head(high)

    def detection_terms(self, head: CenterMaps, boxes: BoxBatch) -> dict[str, Tensor]:
        """Weighted terms of the detection loss."""
        return center_loss(head, boxes, self.config.grid, self.config.loss)

    def depth_terms(
        self, depth_logit: Float[Tensor, "b nl d rows cols"] | None, seen: SensorInput
    ) -> dict[str, Tensor]:
        """The weighted term "depth", where it is taught; the logits are those of all lifts."""
        bins, weight = self.config.lift.depth.bins, self.config.depth_loss_weight
        return depth_terms(depth_logit, seen.cameras, bins, weight)

    def detections(self, head: CenterMaps) -> list[Detections]:
        """Decoded boxes of each frame."""
        return decode(head, self.config.grid, self.config.decode)
