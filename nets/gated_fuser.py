"""UniDistill's fusion of two BEV maps: concatenated, gated channel by channel, convolved."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nets.blocks import conv_norm_relu


class GatedFuser(nn.Module):
    """One gate a channel from the map's mean, then a 3x3 convolution.

    Args:
        in_channels: Of both maps together.
        out_channels: Of the fused map.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.gate = nn.Conv2d(in_channels, in_channels, 1)
        self.merge = conv_norm_relu(in_channels, out_channels)

    def forward(
        self, lidar: Float[Tensor, "b _ h w"], camera: Float[Tensor, "b _ h w"]
    ) -> Float[Tensor, "b c h w"]:
        """The fused map."""
        both = torch.cat([lidar, camera], dim=1)
        gate = self.gate(both.mean((2, 3), keepdim=True)).sigmoid()
        fused: Tensor = self.merge(both * gate)
        return fused
