"""SECOND backbone and its neck on a BEV map (mmdet3d SECOND, SECONDFPN)."""

from itertools import accumulate
from operator import mul

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from torch import Tensor, nn

from nets.bev_resnet import BEVResNetConfig
from nets.blocks import conv_norm_relu, resample_block
from nets.fit_together import require_multiple, require_same_length


class BEVBackboneConfig(BaseModel):
    """Sizes of backbone and neck; defaults are CenterPoint's with 0.1 m voxels.

    Attributes:
        in_channels: Channels of the BEV map.
        channels: Width of each stage.
        layers: Convolutions in each stage after its first.
        strides: Stride of each stage's first convolution.
        up_channels: Width that the neck brings each stage to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    in_channels: PositiveInt = 256
    channels: tuple[PositiveInt, ...] = Field((128, 256), min_length=1)
    layers: tuple[int, ...] = (5, 5)
    strides: tuple[PositiveInt, ...] = (1, 2)
    up_channels: tuple[PositiveInt, ...] = (256, 256)

    @model_validator(mode="after")
    def _same_length(self) -> "BEVBackboneConfig":
        require_same_length(self, "channels", "layers", "strides", "up_channels")
        return self

    @property
    def total_strides(self) -> tuple[int, ...]:
        """Stride of each stage's output against the input; the neck undoes it."""
        return tuple(accumulate(self.strides, mul))

    @property
    def out_channels(self) -> int:
        """Channels after the neck."""
        return sum(self.up_channels)


class BEVBackbone(nn.Module):
    """Stages of 3x3 convolutions, each fed by the one before."""

    def __init__(self, config: BEVBackboneConfig) -> None:
        super().__init__()
        self.config = config
        inputs = (config.in_channels, *config.channels[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(
                conv_norm_relu(before, width, stride=stride),
                *(conv_norm_relu(width, width) for _ in range(layers)),
            )
            for before, width, stride, layers in zip(
                inputs, config.channels, config.strides, config.layers, strict=True
            )
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Each stage's map, finest first.

        Raises:
            ValueError: If the map's size is no multiple of the last stage's stride.
        """
        require_multiple("BEV map", x.shape[-2:], self.config.total_strides[-1], "the backbone's")
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class BEVNeck(nn.Module):
    """Brings every stage to the grid of the backbone's input and concatenates them."""

    def __init__(self, config: BEVBackboneConfig | BEVResNetConfig) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(
            resample_block(width, up, from_stride=stride, to_stride=1)
            for width, up, stride in zip(
                config.channels, config.up_channels, config.total_strides, strict=True
            )
        )

    def forward(self, maps: list[Float[Tensor, "b _ _ _"]]) -> Float[Tensor, "b c h w"]:
        """The fused map."""
        laterals = zip(self.laterals, maps, strict=True)
        return torch.cat([lateral(stage) for lateral, stage in laterals], dim=1)
