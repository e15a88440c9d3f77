"""LIGA-Stereo's 2D head: boxes in the left image from the semantic features, in training only.

A pyramid on the one map, and an ATSS head that its levels share. Sizes, anchors
and weights at the start: LIGA-Stereo, configs/stereo/kitti_models/liga.3d-and-bev.yaml
(``sem_neck``, ``DENSE_HEAD_2D``), and xy-guo/mmdetection_kitti, atss_head.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from nets.anchor_head import CLASS_BIAS, AnchorHeadConfig, conv_stack, flat_slots
from nets.stereo_backbone import STRIDE

IMAGE_CODE = 4
STD = 0.01


class AuxHead2DConfig(AnchorHeadConfig):
    """Sizes; defaults are LIGA-Stereo's.

    Attributes:
        channels: Of the pyramid and inside the stacks.
        layers: Convolutions of each stack.
        groups: Of the norms, as for ``conv_norm``.
        levels: Of the pyramid; each has half the resolution of the one before.
        anchor_scale: Side of a level's square anchors, in its strides.
    """

    layers: PositiveInt = 4
    # Two at least: an object's overlaps with its candidates must have a spread.
    levels: int = Field(5, ge=2)
    anchor_scale: PositiveFloat = 16


@dataclass(frozen=True, slots=True)
class ImageMaps:
    """What the 2D head says of a batch, at all anchors, level after level.

    Attributes:
        logit: Of each class, before the sigmoid.
        code: Box code of each class; see ``nets/aux_loss_2d.py: decode_image_boxes``.
        centreness: Logit of how central an anchor is in its object.
        anchors: Of each level: left, top, right, bottom, pixels.
    """

    logit: Float[Tensor, "b n classes"]
    code: Float[Tensor, "b n classes 4"]
    centreness: Float[Tensor, "b n"]
    anchors: tuple[Float[Tensor, "_ 4"], ...]


class AuxHead2D(nn.Module):
    """Pyramid, two stacks and three predictions.

    Args:
        config: Sizes.
        in_channels: Of the semantic features, at a quarter of the resolution.
        classes: How many.
    """

    def __init__(self, config: AuxHead2DConfig, in_channels: int, classes: int) -> None:
        super().__init__()
        self.config, self.classes, width = config, classes, config.channels
        first = nn.Sequential(nn.Conv2d(in_channels, width, 1), nn.Conv2d(width, width, 3, 1, 1))
        further = (nn.Conv2d(width, width, 3, 2, 1) for _ in range(config.levels - 1))
        self.pyramid = nn.ModuleList([first, *further])
        self.class_stack, self.box_stack = conv_stack(config), conv_stack(config)
        self.logit = nn.Conv2d(width, classes, 3, padding=1)
        self.code = nn.Conv2d(width, classes * IMAGE_CODE, 3, padding=1)
        self.centreness = nn.Conv2d(width, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(config.levels))
        for prediction in (self.logit, self.code, self.centreness):
            nn.init.normal_(prediction.weight, std=STD)
            nn.init.zeros_(prediction.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.logit.bias, CLASS_BIAS)  # type: ignore[arg-type]

    def forward(self, semantic: Float[Tensor, "b _ h w"]) -> ImageMaps:
        """Predictions at every anchor, in float32."""
        logits, codes, centrenesses, sizes = [], [], [], []
        x = semantic
        for level, scale in zip(self.pyramid, self.scales, strict=True):
            x = level(x)
            boxes = self.box_stack(x)
            logits.append(flat_slots(self.logit(self.class_stack(x)), self.classes))
            codes.append(flat_slots(self.code(boxes) * scale, self.classes * IMAGE_CODE))
            centrenesses.append(flat_slots(self.centreness(boxes), 1))
            sizes.append((x.shape[2], x.shape[3]))
        anchors = image_anchors(sizes, self.config.anchor_scale)
        return ImageMaps(
            torch.cat(logits, 1).float(),
            torch.cat(codes, 1).view(len(x), -1, self.classes, IMAGE_CODE).float(),
            torch.cat(centrenesses, 1).squeeze(2).float(),
            tuple(level.to(semantic.device) for level in anchors),
        )


def image_anchors(
    sizes: Sequence[tuple[int, int]], scale: float
) -> tuple[Float[Tensor, "_ 4"], ...]:
    """Square anchors of each level, row by row: left, top, right, bottom, pixels.

    A cell's anchor is centred on the pixel that the convolutions centre the cell on, the first at
    the corner pixel (mmdet's ``AnchorGenerator``, ``center_offset`` 0).

    Args:
        sizes: (height, width) of each level's map; strides double from that of the backbone.
        scale: Side of an anchor, in strides.
    """
    levels = []
    for level, (height, width) in enumerate(sizes):
        stride = STRIDE * 2**level
        v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centres = torch.stack([u, v], -1).flatten(0, 1) * float(stride)
        levels.append(torch.cat([centres - scale * stride / 2, centres + scale * stride / 2], 1))
    return tuple(levels)
