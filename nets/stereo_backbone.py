"""LIGA-Stereo's image network: a ResNet-34 variant and its neck (DSGN's family).

Stages do not shrink after the second: what the later ones lose in stride they have in dilation.
There is no ReLU behind a residual sum. Sizes and the widths of everything below:
LIGA-Stereo, commit aee3731.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from nets.fit_together import require_multiple
from nets.hourglass import conv_norm

STRIDE = 4


class StereoBackboneConfig(BaseModel):
    """Sizes; defaults are LIGA-Stereo's.

    Attributes:
        stem: Channels after the first convolution, at half resolution.
        widths: Of the four stages; the last three are concatenated and must be alike.
        blocks: Residual blocks of each stage.
        strides: Of each stage's first block.
        dilations: Of the first convolution of each block.
        pools: Sizes of the neck's average pools, cells of the last stage.
        pooled: Channels of each pool's branch.
        up: Channels of the stereo features at half and at full resolution.
        semantic: Channels of the semantic branch, the last is its output.
        groups: Of GroupNorm.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stem: PositiveInt = 64
    widths: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (64, 128, 128, 128)
    blocks: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (3, 4, 6, 3)
    strides: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (1, 2, 1, 1)
    dilations: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (1, 1, 2, 4)
    pools: tuple[PositiveInt, ...] = Field((64, 32, 16, 8), min_length=1)
    pooled: PositiveInt = 32
    up: tuple[PositiveInt, PositiveInt] = (64, 32)
    semantic: tuple[PositiveInt, PositiveInt] = (128, 32)
    groups: PositiveInt = 32

    @property
    def concatenated(self) -> int:
        """Channels of the last three stages and the pools together."""
        return sum(self.widths[1:]) + len(self.pools) * self.pooled


@dataclass(frozen=True, slots=True)
class StereoFeatures:
    """What the image network says of a batch of images.

    Attributes:
        stereo: To be compared between left and right, at full resolution.
        semantic: What is seen, at a quarter.
    """

    stereo: Float[Tensor, "b cs h w"]
    semantic: Float[Tensor, "b cm hq wq"]


class StereoBackbone(nn.Module):
    """ResNet-34 without max-pool, spatial pyramid, stereo and semantic branches."""

    def __init__(self, config: StereoBackboneConfig) -> None:
        super().__init__()
        stem = nn.Conv2d(3, config.stem, 7, 2, 3, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(config.stem), nn.ReLU(inplace=True))
        inputs = (config.stem, *config.widths[:-1])
        self.stages = nn.ModuleList(
            _stage(before, width, blocks, stride, dilation)
            for before, width, blocks, stride, dilation in zip(
                inputs, config.widths, config.blocks, config.strides, config.dilations, strict=True
            )
        )
        self.neck = StereoNeck(config)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> StereoFeatures:
        """Features of normalised images.

        Raises:
            ValueError: Their size is no multiple of the stride.
        """
        require_multiple("image size", images.shape[2:], STRIDE, "the backbone's")
        x = self.stem(images)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        features: StereoFeatures = self.neck(images, maps)
        return features


class StereoNeck(nn.Module):
    """Spatial pyramid pooling (PSMNet), then full-resolution stereo and quarter semantic maps."""

    def __init__(self, config: StereoBackboneConfig) -> None:
        super().__init__()
        groups, half, full = config.groups, *config.up
        self.pools = nn.ModuleList(
            nn.Sequential(
                nn.AvgPool2d(size),
                nn.Conv2d(config.widths[3], config.pooled, 1, bias=False),
                nn.GroupNorm(groups, config.pooled),
                nn.ReLU(inplace=True),
            )
            for size in config.pools
        )
        self.to_half = _conv_norm(config.concatenated, half)
        self.stage_at_half = _conv_norm(config.widths[0], half)
        self.to_full = _conv_norm(half, full)
        self.image_at_full = _conv_norm(3, full)
        self.stereo = nn.Sequential(
            conv_norm(2, full, full, groups=groups),
            nn.ReLU(inplace=True),
            nn.Conv2d(full, full, 1, bias=False),
        )
        middle, out = config.semantic
        self.semantic = nn.Sequential(
            conv_norm(2, config.concatenated, middle, groups=groups),
            nn.ReLU(inplace=True),
            conv_norm(2, middle, out, groups=groups),
            nn.ReLU(inplace=True),
        )

    def forward(self, images: Float[Tensor, "b 3 h w"], maps: list[Tensor]) -> StereoFeatures:
        """Features from the images and the four stages' maps."""
        size = maps[-1].shape[2:]
        pooled = [
            F.interpolate(pool(maps[-1]), size=size, mode="bilinear", align_corners=True)
            for pool in self.pools
        ]
        together = torch.cat([*maps[1:], *pooled], 1)
        half = (_doubled(self.to_half(together)) + self.stage_at_half(maps[0])).relu()
        full = (_doubled(self.to_full(half)) + self.image_at_full(images)).relu()
        return StereoFeatures(self.stereo(full), self.semantic(together))


class DilatedBlock(nn.Module):
    """Two 3x3 convolutions around an identity, or a 1x1 convolution where the shape changes."""

    def __init__(self, before: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        first = nn.Conv2d(before, width, 3, stride, dilation, dilation, bias=False)
        self.body = nn.Sequential(
            first, nn.BatchNorm2d(width), nn.ReLU(inplace=True), *_conv_norm(width, width)
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _ _ _"]:
        """The sum, without ReLU."""
        out: Tensor = self.body(x) + self.shortcut(x)
        return out


def _stage(before: int, width: int, blocks: int, stride: int, dilation: int) -> nn.Sequential:
    return nn.Sequential(
        DilatedBlock(before, width, stride, dilation),
        *(DilatedBlock(width, width, 1, dilation) for _ in range(blocks - 1)),
    )


def _conv_norm(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
    )


def _doubled(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c _ _"]:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
