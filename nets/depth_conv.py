"""Depth and context by one 1x1 convolution, as LSS and UniDistill have them."""

from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import Tensor, nn

from nets.depth_net import DepthBins, DepthOutput


class DepthConvConfig(BaseModel):
    """Sizes; defaults are UniDistill's (its code, commit 32f02b4).

    Attributes:
        in_channels: Channels of the image features.
        stride: Image pixels in one feature cell, along either axis.
        context_channels: Channels that are lifted to BEV.
        bins: Depth bins. UniDistill lifts to their near edges, we to their centres.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    in_channels: PositiveInt = 512
    stride: PositiveInt = 16
    context_channels: PositiveInt = 256
    bins: DepthBins = DepthBins()


class DepthConv(nn.Module):
    """Knows nothing of the camera's calibration."""

    def __init__(self, config: DepthConvConfig) -> None:
        super().__init__()
        self.config = config
        outputs = config.bins.count + config.context_channels
        self.conv = nn.Conv2d(config.in_channels, outputs, 1)

    def forward(self, features: Float[Tensor, "b n c h w"]) -> DepthOutput:
        """Depth logits and context of every camera."""
        said = self.conv(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        depth, context = said.split([self.config.bins.count, self.config.context_channels], dim=2)
        return DepthOutput(depth, context)
