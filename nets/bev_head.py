"""What LIGA-Stereo's student and its LiDAR teacher share: from a BEV map to anchors.

One convolution, an hourglass and the anchor head, with GroupNorm in the student and BatchNorm in
the teacher (LIGA-Stereo, commit aee3731).
"""

from dataclasses import dataclass

from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, PositiveInt, model_validator
from torch import Tensor, nn

from frames.anchors import AnchorConfig
from nets.anchor_head import AnchorHead, AnchorHeadConfig, AnchorMaps
from nets.fit_together import require_multiple
from nets.hourglass import STRIDE, Hourglass, conv_norm


class BEVHeadConfig(BaseModel):
    """Sizes; defaults are LIGA-Stereo's.

    Attributes:
        width: Inside the hourglass.
        head: Predictions; its channels and norms are those of the BEV maps.
        anchors: On the BEV map.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: PositiveInt = 128
    head: AnchorHeadConfig = AnchorHeadConfig()
    anchors: AnchorConfig = AnchorConfig()

    @model_validator(mode="after")
    def _halves_twice(self) -> "BEVHeadConfig":
        require_multiple("anchors.grid.shape", self.anchors.grid.shape, STRIDE, "the hourglass's")
        return self


@dataclass(frozen=True, slots=True)
class BEVHeadMaps:
    """What is known on the ground.

    Attributes:
        low: Before the hourglass (F_BEV).
        high: After it.
        anchors: Predictions.
        table: Of which anchors: ``AnchorConfig.boxes()`` on their device.
    """

    low: Float[Tensor, "b c h w"]
    high: Float[Tensor, "b c h w"]
    anchors: AnchorMaps
    table: Float[Tensor, "n 7"]


class BEVHead(nn.Module):
    """The network.

    Args:
        config: Sizes.
        in_channels: Of the BEV map, heights merged.
    """

    table: Tensor

    def __init__(self, config: BEVHeadConfig, in_channels: int) -> None:
        super().__init__()
        self.register_buffer("table", config.anchors.boxes(), persistent=False)
        channels, groups = config.head.channels, config.head.groups
        self.conv = nn.Sequential(
            conv_norm(2, in_channels, channels, groups=groups), nn.ReLU(inplace=True)
        )
        self.hourglass = Hourglass(2, channels, config.width, groups)
        self.head = AnchorHead(config.head, config.anchors)

    def forward(self, bev: Float[Tensor, "b _ h w"]) -> BEVHeadMaps:
        """Refined maps and predictions."""
        low = self.conv(bev)
        high = self.hourglass(low)
        return BEVHeadMaps(low, high, self.head(high), self.table)
