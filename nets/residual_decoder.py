"""SimDistill's BEV decoder: residual stages, their coarsest and finest fused at the map's own size.

MIT BEVFusion's GeneralizedResNet and LSSFPN, as SimDistill's teacher and student have them
(SimDistill, commit 2d0d5eb).
"""

import math

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from nets.bev_resnet import BasicBlock
from nets.blocks import conv_norm_relu
from nets.fit_together import require_multiple, require_same_length


class ResidualDecoderConfig(BaseModel):
    """Sizes; defaults are SimDistill's.

    Attributes:
        in_channels: Of the fused BEV map.
        widths: Of each stage.
        blocks: Residual blocks of each stage.
        strides: Of each stage's first block.
        out_channels: Of the decoded map, which has the fused map's size.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    in_channels: PositiveInt = 256
    widths: tuple[PositiveInt, ...] = Field((128, 256, 512), min_length=1)
    blocks: tuple[PositiveInt, ...] = (2, 2, 2)
    strides: tuple[PositiveInt, ...] = (2, 2, 1)
    out_channels: PositiveInt = 256

    @model_validator(mode="after")
    def _same_length(self) -> "ResidualDecoderConfig":
        require_same_length(self, "widths", "blocks", "strides")
        return self

    @property
    def total_stride(self) -> int:
        """Of the last stage against the input."""
        return math.prod(self.strides)


class ResidualDecoder(nn.Module):
    """From the fused map to the one that the head reads."""

    def __init__(self, config: ResidualDecoderConfig) -> None:
        super().__init__()
        self.config = config
        inputs = (config.in_channels, *config.widths[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(
                BasicBlock(before, width, stride),
                *(BasicBlock(width, width) for _ in range(blocks - 1)),
            )
            for before, width, blocks, stride in zip(
                inputs, config.widths, config.blocks, config.strides, strict=True
            )
        )
        out = config.out_channels
        self.fuse = nn.Sequential(
            conv_norm_relu(config.widths[-1] + config.widths[0], out, kernel=1),
            conv_norm_relu(out, out),
        )
        self.up = conv_norm_relu(out, out)

    def forward(self, x: Float[Tensor, "b _ h w"]) -> Float[Tensor, "b _ h w"]:
        """The decoded map.

        Raises:
            ValueError: The map's size is no multiple of the last stage's stride.
        """
        size = x.shape[-2:]
        require_multiple("BEV map", size, self.config.total_stride, "the decoder's")
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        fine = maps[0]
        both = torch.cat([_resized(maps[-1], fine.shape[-2:]), fine], dim=1)
        decoded: Tensor = self.up(_resized(self.fuse(both), size))
        return decoded


def _resized(maps: Float[Tensor, "b c _ _"], size: torch.Size) -> Float[Tensor, "b c _ _"]:
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=True)
