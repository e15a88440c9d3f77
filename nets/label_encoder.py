"""LabelDistill's label encoder: from ground-truth boxes to features like the teacher's.

It is trained to invert the teacher's head: its maps stand for the stages of the teacher's BEV
backbone, and the teacher's frozen neck and head find the boxes in them again. Released code:
LabelDistill, commit 274ab26dc1 (docs/label-encoder.md); 8,626,304 parameters at its size.

Where this differs: a box's vector is computed once and painted, not once for each of its cells,
which is the same; the released encoder stays in train mode when a student learns from it, here it
is frozen in eval mode. A teacher with more stages than the paper's two gets a map for each.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from frames.boxes import BOX_SIZE, BoxBatch
from frames.detection_classes import DETECTION_CLASSES
from frames.grid import BEVGrid
from frames.label_raster import painted_boxes
from nets.blocks import ResidualBlock
from nets.fit_together import require_multiple
from nets.frozen import Frozen


class LabelEncoderConfig(BaseModel):
    """Sizes; those of grid and stages are the teacher's. Defaults fit CenterPoint's at 0.1 m.

    Attributes:
        grid: On which boxes are painted: the teacher's.
        channels: Of each stage of the teacher's BEV backbone.
        strides: Of each stage against the grid.
        width: Channels before the stages.
        class_order: In which boxes are painted: the teacher's tasks, one after the other.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    grid: BEVGrid
    channels: tuple[PositiveInt, ...] = Field((128, 256), min_length=1)
    strides: tuple[PositiveInt, ...] = (1, 2)
    width: PositiveInt = 256
    class_order: tuple[str, ...] = DETECTION_CLASSES

    @model_validator(mode="after")
    def _sensible(self) -> "LabelEncoderConfig":
        if len(self.channels) != len(self.strides):
            raise ValueError(f"channels {self.channels}, strides {self.strides}: one of each a map")
        for stride in self.strides:
            require_multiple("grid.shape", self.grid.shape, stride, "a stage's")
        if sorted(self.class_order) != sorted(DETECTION_CLASSES):
            raise ValueError(
                f"class_order holds {self.class_order}; expected each of {DETECTION_CLASSES} once"
            )
        return self


class LabelEncoder(nn.Module):
    """The network."""

    def __init__(self, config: LabelEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.class_order = [DETECTION_CLASSES.index(name) for name in config.class_order]
        width = config.width
        self.box = _perceptron(BOX_SIZE, width, width)
        self.label = _perceptron(len(DETECTION_CLASSES), width, width)
        self.both = nn.Sequential(_perceptron(width, width, width), nn.LayerNorm(width))
        self.mix = ResidualBlock(width)
        rows, cols = config.grid.shape
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, channels, 3, stride, padding=1, padding_mode="replicate"),
                nn.LayerNorm([channels, rows // stride, cols // stride]),
                nn.ReLU(inplace=True),
            )
            for channels, stride in zip(config.channels, config.strides, strict=True)
        )

    def forward(self, boxes: BoxBatch) -> list[Float[Tensor, "b _ _ _"]]:
        """A map for each stage, finest first.

        Args:
            boxes: Ground truth, in the frame in which the maps are wanted.
        """
        painted = painted_boxes(boxes, self.config.grid, self.class_order)
        # The vector of no box comes last, where an index of -1 finds it.
        vectors = self._vectors(boxes)
        frame = torch.arange(len(vectors), device=painted.device)[:, None, None]
        mixed = self.mix(vectors[frame, painted].permute(0, 3, 1, 2))
        return [stage(mixed) for stage in self.stages]

    def _vectors(self, boxes: BoxBatch) -> Float[Tensor, "b _ c"]:
        """What a cell of each box says, and at the end what an empty cell says."""
        # As they are: metres, radians, metres a second, neither scaled nor coded.
        values = F.pad(boxes.values, (0, 0, 0, 1))
        labels = F.pad(F.one_hot(boxes.labels, len(DETECTION_CLASSES)), (0, 0, 0, 1)).float()
        vectors: Tensor = self.both(self.box(values) + self.label(labels))
        return vectors


class FrozenLabelEncoder(Frozen, LabelEncoder):
    """One that has been trained; a method may own it, no trainer changes it."""


def frozen_label_encoder(
    config: Mapping[str, Any], load_into: Callable[[nn.Module], None], device: torch.device
) -> FrozenLabelEncoder:
    """The encoder of a checkpoint, in eval mode, without gradient.

    Args:
        config: ``Checkpoint.config``; its ``encoder`` is a ``LabelEncoderConfig``.
        load_into: ``Checkpoint.load_into``.
        device: Where it goes.
    """
    encoder = FrozenLabelEncoder(LabelEncoderConfig.model_validate(config["encoder"]))
    load_into(encoder)
    return encoder.to(device).eval().requires_grad_(requires_grad=False)


def _perceptron(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for before, width in pairwise(widths):
        layers += [nn.Linear(before, width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])
