"""CenterPoint: points to voxels or pillars, SECOND backbone, centre head.

Paper-scale sizes follow mmdet3d's voxel 0.1 m configuration (centerpoint_01voxel_second_secfpn).
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, Float32
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor, nn

from frames.detection_classes import DETECTION_CLASSES
from frames.grid import BEVGrid
from nets.bev_backbone import BEVBackbone, BEVBackboneConfig, BEVNeck
from nets.center_decode import CenterDecodeConfig
from nets.center_head import CenterHead, CenterHeadConfig, CenterMaps
from nets.center_loss import CenterLossConfig
from nets.fit_together import check_fit, require_multiple
from nets.lidar_encoder import LidarEncoding, build_lidar_encoder, grid_pairs
from nets.voxelize import voxelize


class CenterPointConfig(BaseModel):
    """Parts of the network; they must fit together.

    Attributes:
        network: Tells teachers apart in a TOML.
        grid: Of all BEV maps.
        encoder: Points to the low-level BEV map.
        backbone: Low-level to high-level BEV map.
        head: Heatmaps and box codes.
        loss: Weights of the detection loss.
        decode: Maps to detections.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: Literal["centerpoint"] = "centerpoint"
    grid: BEVGrid
    encoder: LidarEncoding
    backbone: BEVBackboneConfig
    head: CenterHeadConfig
    loss: CenterLossConfig = CenterLossConfig()
    decode: CenterDecodeConfig = CenterDecodeConfig()

    @model_validator(mode="after")
    def _fits(self) -> "CenterPointConfig":
        pairs: dict[str, tuple[object, object]] = {
            "backbone.in_channels": (self.backbone.in_channels, self.encoder.out_channels),
            "head.in_channels": (self.head.in_channels, self.backbone.out_channels),
            "decode.circle_squared entries": (
                len(self.decode.circle_squared),
                len(self.head.tasks),
            ),
        }
        check_fit(pairs | grid_pairs(self.grid, self.encoder))
        stride = self.backbone.total_strides[-1]
        require_multiple("grid.shape", self.grid.shape, stride, "the backbone's")
        return self

    @property
    def classes(self) -> tuple[str, ...]:
        """What it detects, in the order of labels."""
        return DETECTION_CLASSES


@dataclass(frozen=True, slots=True)
class CenterPointMaps:
    """All that is computed for a batch.

    Attributes:
        bev_low: Before the BEV backbone.
        stages: Of the backbone, finest first.
        bev_high: After its neck.
        head: Heatmap logits and box codes.
    """

    bev_low: Float32[Tensor, "b _ h w"]
    stages: list[Float[Tensor, "b _ _ _"]]
    bev_high: Float[Tensor, "b _ h w"]
    head: CenterMaps


class CenterPoint(nn.Module):
    """The LiDAR detector."""

    def __init__(self, config: CenterPointConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_lidar_encoder(config.encoder)
        self.backbone = BEVBackbone(config.backbone)
        self.neck = BEVNeck(config.backbone)
        self.head = CenterHead(config.head)

    def forward(self, points: list[Tensor]) -> CenterPointMaps:
        """Maps of a batch.

        Args:
            points: Per frame (n, 5): x y z in the ego frame, intensity 0..255, time lag s.
        """
        low = self.encoder(voxelize(points, self.config.encoder.voxels))
        stages = self.backbone(low)
        high = self.neck(stages)
        return CenterPointMaps(low, stages, high, self.head(high))
