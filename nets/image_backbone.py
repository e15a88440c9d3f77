"""timm image backbone and a neck that brings its levels to one stride (SECONDFPN)."""

import difflib
from collections.abc import Sequence
from typing import Any, Literal

import timm
import torch
from jaxtyping import Float, UInt8
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers.format import Format
from torch import Tensor, nn

from nets.blocks import resample_block
from nets.fit_together import require_multiple


class ImageBackboneConfig(BaseModel):
    """Which backbone, and what comes out of it; defaults are BEVDepth's.

    Attributes:
        name: timm model.
        pretrained: Load timm's weights (from its cache, else over the network).
        args: Further arguments of ``timm.create_model``.
        level_strides: Strides of the levels that the neck takes, finest first.
        stride: Stride of the output.
        up_channels: Width that the neck brings each level to.
        merge: How the levels become one map.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "resnet50"
    pretrained: bool = False
    args: dict[str, Any] = Field(default_factory=dict)
    level_strides: tuple[PositiveInt, ...] = Field((4, 8, 16, 32), min_length=1)
    stride: Literal[8, 16] = 16
    up_channels: PositiveInt = 128
    merge: Literal["concat", "sum"] = "concat"

    @field_validator("name")
    @classmethod
    def _timm_knows(cls, name: str) -> str:
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), n=3)
            raise ValueError(f"timm has no model {name!r}; near: {', '.join(near) or 'none'}")
        return name

    @property
    def out_channels(self) -> int:
        """Channels of the output."""
        return self.up_channels * (len(self.level_strides) if self.merge == "concat" else 1)

    def check_size(self, name: str, size: Sequence[int]) -> None:
        """Refuse images that do not divide into cells of the coarsest stride.

        Args:
            name: Of the setting.
            size: (height, width), pixels.

        Raises:
            ValueError: They do not.
        """
        coarsest = max(*self.level_strides, self.stride)
        require_multiple(name, size, coarsest, "the image backbone's coarsest")


class ImageBackbone(nn.Module):
    """Images as read (uint8) to one feature map for each."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ImageBackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.body = _create_body(config)
        # Swin and its like give (n, h, w, c).
        self._channels_last = self.body.output_fmt == Format.NHWC
        strides = self.body.feature_info.reduction()
        missing = set(config.level_strides) - set(strides)
        if missing:
            raise ValueError(
                f"{config.name} has no level of stride {sorted(missing)}; it has {strides}: "
                "change level_strides"
            )
        # Where several levels share a stride, the deepest is the last.
        self._levels = [
            max(i for i, found in enumerate(strides) if found == stride)
            for stride in config.level_strides
        ]
        widths = self.body.feature_info.channels()
        self.laterals = nn.ModuleList(
            resample_block(
                widths[level], config.up_channels, from_stride=stride, to_stride=config.stride
            )
            for level, stride in zip(self._levels, config.level_strides, strict=True)
        )
        for name, values in (("mean", IMAGENET_DEFAULT_MEAN), ("std", IMAGENET_DEFAULT_STD)):
            scaled = torch.tensor(values).view(3, 1, 1) * 255
            self.register_buffer(name, scaled, persistent=False)

    def forward(self, images: UInt8[Tensor, "b n 3 height width"]) -> Float[Tensor, "b n c h w"]:
        """Features at the configured stride.

        Args:
            images: RGB.

        Raises:
            ValueError: If the image size is no multiple of the coarsest stride.
        """
        self.config.check_size("image size", images.shape[-2:])
        maps = self.body((images.flatten(0, 1) - self.mean) / self.std)
        if self._channels_last:
            maps = [map_.movedim(-1, 1) for map_ in maps]
        levels = [
            lateral(maps[level]) for lateral, level in zip(self.laterals, self._levels, strict=True)
        ]
        concat = self.config.merge == "concat"
        merged = torch.cat(levels, dim=1) if concat else torch.stack(levels).sum(0)
        return merged.view(*images.shape[:2], *merged.shape[1:])


def _create_body(config: ImageBackboneConfig) -> Any:
    try:
        return timm.create_model(
            config.name, features_only=True, pretrained=config.pretrained, **config.args
        )
    except OSError as error:
        raise OSError(
            f"timm cannot load weights of {config.name}: {error}. Put them into the Hugging Face "
            "cache (HF_HOME) on a machine with network, give a file in args as "
            'pretrained_cfg_overlay = {file = "..."}, or set pretrained = false'
        ) from error
