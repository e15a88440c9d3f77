"""BEVDepth's BEV trunk: a ResNet-18 on the BEV map, its stem without pooling.

mmdet's ResNet with BasicBlocks and the neck's inputs with the BEV map itself as level 0 (BEVDepth,
commit d78c7b58b1, whose trunk LabelDistill takes over).
"""

from itertools import accumulate
from operator import mul
from typing import Literal

from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from torch import Tensor, nn

from nets.fit_together import require_multiple

STEM_KERNEL, STEM_STRIDE = 7, 2


class BEVResNetConfig(BaseModel):
    """Sizes of trunk and neck; defaults are LabelDistill's with two past frames.

    Attributes:
        kind: Tells backbones apart in a TOML.
        in_channels: Channels of the BEV map.
        widths: Of each stage; the first has the stem's resolution, each next one half of that.
        blocks: Residual blocks of each stage.
        up_channels: Width that the neck brings the BEV map and each stage to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["resnet"] = "resnet"
    in_channels: PositiveInt = 450
    widths: tuple[PositiveInt, ...] = Field((300, 600, 1200), min_length=1)
    blocks: tuple[PositiveInt, ...] = (2, 2, 2)
    up_channels: tuple[PositiveInt, ...] = (64, 64, 64, 64)

    @model_validator(mode="after")
    def _lengths_fit(self) -> "BEVResNetConfig":
        found = (len(self.widths), len(self.blocks), len(self.up_channels) - 1)
        if len(set(found)) != 1:
            raise ValueError(
                f"{found[0]} widths, {found[1]} blocks, {found[2] + 1} up_channels: as many blocks "
                "as widths expected, and one up_channels more, for the BEV map itself"
            )
        return self

    @property
    def channels(self) -> tuple[int, ...]:
        """Of the neck's inputs."""
        return (self.in_channels, *self.widths)

    @property
    def total_strides(self) -> tuple[int, ...]:
        """Stride of the neck's inputs against the BEV map."""
        return (1, *accumulate([STEM_STRIDE] + [2] * (len(self.widths) - 1), mul))

    @property
    def out_channels(self) -> int:
        """Channels after the neck."""
        return sum(self.up_channels)


class BasicBlock(nn.Module):
    """ResNet's: two 3x3 convolutions around a shortcut, which is projected where shapes differ."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        same = stride == 1 and in_channels == out_channels
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _ _ _"]:
        """The map, or its half."""
        out: Tensor = (self.body(x) + self.shortcut(x)).relu()
        return out


class BEVResNet(nn.Module):
    """The stem and its stages."""

    def __init__(self, config: BEVResNetConfig) -> None:
        super().__init__()
        self.config = config
        first = config.widths[0]
        self.stem = nn.Sequential(
            nn.Conv2d(
                config.in_channels, first, STEM_KERNEL, STEM_STRIDE, STEM_KERNEL // 2, bias=False
            ),
            nn.BatchNorm2d(first),
            nn.ReLU(inplace=True),
        )
        before = (first, *config.widths[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(
                BasicBlock(inner, width, stride=1 if k == 0 else 2),
                *(BasicBlock(width, width) for _ in range(config.blocks[k] - 1)),
            )
            for k, (inner, width) in enumerate(zip(before, config.widths, strict=True))
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """The BEV map itself, then each stage's, as the neck takes them.

        Raises:
            ValueError: The map's size is no multiple of the last stage's stride.
        """
        require_multiple("BEV map", x.shape[-2:], self.config.total_strides[-1], "the backbone's")
        maps, stage = [x], self.stem(x)
        for module in self.stages:
            stage = module(stage)
            maps.append(stage)
        return maps
