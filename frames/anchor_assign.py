"""Which anchors answer for which object: OpenPCDet's assigner on boxes seen from above."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from frames.anchors import AnchorConfig
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

    Source: specification, part 1; OpenPCDet, ``axis_aligned_target_assigner.py``. There the
    returned indices count among the boxes of the anchor's class; here among all.
    """
    shape = (*config.grid.shape, len(config.classes), len(config.rotations))
    label = torch.full(shape, BACKGROUND, device=boxes.device)
    box = torch.zeros_like(label)
    table = anchors.view(*shape, anchors.shape[-1])
    for index, kind in enumerate(config.classes):
        own = (labels == index).nonzero().squeeze(1)
        if len(own) == 0:
            continue
        overlap = nearest_overlaps(table[:, :, index].flatten(0, 2), boxes[own])
        most, which = overlap.max(1)
        best = overlap.max(0).values
        chosen = (most >= kind.positive_iou) | ((overlap == best) & (best > 0)).any(1)
        ignored = ~chosen & (most >= kind.negative_iou)
        of_class = torch.where(chosen, index, torch.where(ignored, IGNORED, BACKGROUND))
        label[:, :, index] = of_class.view(shape[0], shape[1], shape[3])
        box[:, :, index] = own[which].view(shape[0], shape[1], shape[3])
    return Assignment(label.flatten(), box.flatten())


def nearest_overlaps(
    anchors: Float[Tensor, "n 7"], boxes: Float[Tensor, "m 7"]
) -> Float[Tensor, "n m"]:
    """IoU, seen from above, of boxes turned to the nearest multiple of a right angle."""
    low_a, high_a = _corners(anchors)
    low_b, high_b = _corners(boxes)
    low = torch.maximum(low_a[:, None], low_b)
    shared = (torch.minimum(high_a[:, None], high_b) - low).clamp(min=0).prod(-1)
    area_a, area_b = (high_a - low_a).prod(-1), (high_b - low_b).prod(-1)
    return shared / (area_a[:, None] + area_b - shared).clamp(min=1e-6)


def _corners(boxes: Float[Tensor, "n 7"]) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n 2"]]:
    across = wrap_angle(boxes[:, 6], math.pi).abs() >= math.pi / 4
    half = torch.where(across[:, None], boxes[:, [4, 3]], boxes[:, 3:5]) / 2
    return boxes[:, :2] - half, boxes[:, :2] + half
