"""Anchor head: class logits, box codes and direction bins for every anchor of every cell.

LIGA-Stereo's: two separate stacks, one for classes and directions, one for boxes (its code, commit
aee3731). Outputs are flat, in the order of ``frames/anchors.py``.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from frames.anchors import BOX_CODE, AnchorConfig
from nets.hourglass import conv_norm

DIRECTIONS = 2
# A class has probability 0.01 before training (RetinaNet).
CLASS_BIAS = -math.log(99)
CLASS_STD, BOX_STD = 0.1, 0.02


class AnchorHeadConfig(BaseModel):
    """Sizes; defaults are LIGA-Stereo's.

    Attributes:
        channels: Of the BEV map and inside the stacks.
        layers: Convolutions of each stack.
        groups: Of the norms, as for ``conv_norm``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: PositiveInt = 64
    layers: PositiveInt = 2
    groups: NonNegativeInt = 32


@dataclass(frozen=True, slots=True)
class AnchorMaps:
    """What an anchor head says of a batch.

    Attributes:
        logit: Of each class, before the sigmoid.
        code: See ``frames/anchor_code.py``.
        direction: Of each half turn, before the softmax.
    """

    logit: Float[Tensor, "b n classes"]
    code: Float[Tensor, "b n 7"]
    direction: Float[Tensor, "b n 2"]

    def frames(self, index: Int64[Tensor, " k"]) -> "AnchorMaps":
        """The same of some frames of the batch."""
        return AnchorMaps(self.logit[index], self.code[index], self.direction[index])


class AnchorHead(nn.Module):
    """Two stacks of convolutions and three predictions."""

    def __init__(self, config: AnchorHeadConfig, anchors: AnchorConfig) -> None:
        super().__init__()
        self.classes = len(anchors.classes)
        self.class_stack, self.box_stack = conv_stack(config), conv_stack(config)
        width, slots = config.channels, anchors.per_cell
        self.logit = nn.Conv2d(width, slots * self.classes, 3, padding=1)
        self.code = nn.Conv2d(width, slots * BOX_CODE, 3, padding=1)
        self.direction = nn.Conv2d(width, slots * DIRECTIONS, 1)
        nn.init.normal_(self.logit.weight, std=CLASS_STD)
        nn.init.constant_(self.logit.bias, CLASS_BIAS)  # type: ignore[arg-type]
        nn.init.normal_(self.code.weight, std=BOX_STD)
        nn.init.zeros_(self.code.bias)  # type: ignore[arg-type]

    def forward(self, bev: Float[Tensor, "b c h w"]) -> AnchorMaps:
        """Predictions at every anchor, float32 also under autocast."""
        shared = self.class_stack(bev)
        return AnchorMaps(
            flat_slots(self.logit(shared), self.classes).float(),
            flat_slots(self.code(self.box_stack(bev)), BOX_CODE).float(),
            flat_slots(self.direction(shared), DIRECTIONS).float(),
        )


def conv_stack(config: AnchorHeadConfig) -> nn.Sequential:
    """A stack of 3x3 convolutions of one width, each with its norm and ReLU."""
    layers: list[nn.Module] = []
    for _ in range(config.layers):
        layers.append(conv_norm(2, config.channels, config.channels, groups=config.groups))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def flat_slots(maps: Float[Tensor, "b c h w"], values: int) -> Float[Tensor, "b n _"]:
    """Channels hold slots of values; cells come first: (b, h * w * slots, values)."""
    return torch.movedim(maps, 1, 3).reshape(len(maps), -1, values)
