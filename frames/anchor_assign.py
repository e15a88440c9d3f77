"""Which anchors answer for which object: OpenPCDet's assigner on boxes seen from above."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from frames.anchors import BOX_CODE, AnchorClass, AnchorConfig
from frames.boxes import Boxes3D
from frames.geometry import wrap_angle

IGNORED, BACKGROUND = -2, -1


@dataclass(frozen=True, slots=True)
class Assignment:
    """What each anchor of a frame answers for.

    Attributes:
        label: Class of its object; ``BACKGROUND`` or ``IGNORED`` where it has none.
        box: Index of its object among the given boxes; meaningless without one.
    """

    label: Int64[Tensor, " n"]
    box: Int64[Tensor, " n"]

    @property
    def positive(self) -> Bool[Tensor, " n"]:
        """Anchors that have an object."""
        return self.label >= 0


def assign_anchors(
    config: AnchorConfig,
    anchors: Float[Tensor, "n 7"],
    boxes: Float[Tensor, "m 7"],
    labels: Int64[Tensor, " m"],
) -> Assignment:
    """Give each object its anchors, class by class.

    An anchor is positive where it overlaps an object of its class by the positive IoU, or more
    than any other anchor does (ties too); background where it overlaps none by the negative IoU.
    Overlaps are those of the nearest axis-aligned rectangles; heights do not count.

    Args:
        config: Of the anchors.
        anchors: ``config.boxes()``, on the device of the boxes.
        boxes: Objects of one frame, without padding; x y z l w h yaw.
        labels: Their classes, as indices into ``config.classes``.

    Source: OpenPCDet, ``axis_aligned_target_assigner.py``, as LIGA-Stereo uses it. There the
    returned indices count among the boxes of the anchor's class; here among all.
    """
    shape = (config.grid.num_cells, len(config.classes), len(config.rotations))
    label = torch.full(shape, BACKGROUND, device=boxes.device)
    box = torch.zeros_like(label)
    table = anchors.view(*shape, anchors.shape[-1])
    for index, kind in enumerate(config.classes):
        own = (labels == index).nonzero().squeeze(1)
        if len(own) == 0:
            continue
        near = _cells_near(config, kind, table, boxes[own])
        overlap = nearest_overlaps(table[near, index].flatten(0, 1), boxes[own])
        most, which = overlap.max(1)
        best = overlap.amax(0) if len(near) else overlap.new_zeros(len(own))
        chosen = (most >= kind.positive_iou) | ((overlap == best) & (best > 0)).any(1)
        ignored = ~chosen & (most >= kind.negative_iou)
        of_class = torch.where(chosen, index, torch.where(ignored, IGNORED, BACKGROUND))
        label[near, index] = of_class.view(-1, shape[2])
        box[near, index] = own[which].view(-1, shape[2])
    return Assignment(label.flatten(), box.flatten())


def positive_anchors(
    config: AnchorConfig, boxes: Boxes3D
) -> tuple[Int64[Tensor, " k"], Int64[Tensor, " k"]]:
    """The positive anchors of a frame.

    Returns:
        Their indices, ascending, and the index of the object each answers for.
    """
    found = assign_anchors(config, anchor_table(config), boxes.values[:, :BOX_CODE], boxes.labels)
    index = found.positive.nonzero().squeeze(1)
    return index, found.box[index]


@lru_cache(maxsize=4)
def anchor_table(config: AnchorConfig) -> Float[Tensor, "n 7"]:
    """``config.boxes()``, made once."""
    return config.boxes()


def nearest_overlaps(
    anchors: Float[Tensor, "n 7"], boxes: Float[Tensor, "m 7"]
) -> Float[Tensor, "n m"]:
    """``nearest_overlap`` of every anchor with every box."""
    return nearest_overlap(anchors[:, None], boxes)


def nearest_overlap(
    first: Float[Tensor, "*#n d"], second: Float[Tensor, "*#n d"]
) -> Float[Tensor, "*n"]:
    """IoU, seen from above, of boxes turned to the nearest multiple of a right angle.

    Args:
        first: x y z l w h yaw; columns beyond these are not looked at. Leading axes broadcast.
        second: Likewise.
    """
    low_a, high_a = _corners(first)
    low_b, high_b = _corners(second)
    low = torch.maximum(low_a, low_b)
    shared = (torch.minimum(high_a, high_b) - low).clamp(min=0).prod(-1)
    area_a, area_b = (high_a - low_a).prod(-1), (high_b - low_b).prod(-1)
    return shared / (area_a + area_b - shared).clamp(min=1e-6)


def _cells_near(
    config: AnchorConfig,
    kind: AnchorClass,
    table: Float[Tensor, "cells classes rotations 7"],
    boxes: Float[Tensor, "m 7"],
) -> Int64[Tensor, " near"]:
    """Cells where an anchor of the class can reach one of the boxes; the others overlap none."""
    cols = config.grid.shape[1]
    x, y = table[:cols, 0, 0, 0], table[::cols, 0, 0, 1]
    reach = (boxes[:, 3:5].amax(1, keepdim=True) + max(kind.size[:2])) / 2
    in_col, in_row = (x - boxes[:, :1]).abs() < reach, (y - boxes[:, 1:2]).abs() < reach
    return (in_row[:, :, None] & in_col[:, None]).any(0).flatten().nonzero().squeeze(1)


def _corners(boxes: Float[Tensor, "*n d"]) -> tuple[Float[Tensor, "*n 2"], Float[Tensor, "*n 2"]]:
    across = wrap_angle(boxes[..., 6:7], math.pi).abs() >= math.pi / 4
    half = torch.where(across, boxes[..., [4, 3]], boxes[..., 3:5]) / 2
    return boxes[..., :2] - half, boxes[..., :2] + half
