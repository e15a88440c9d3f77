"""Which anchors of an image answer for which object: ATSS, about projected 3D centres.

Adaptive Training Sample Selection (Zhang et al., CVPR 2020, algorithm 1): an object's overlaps with
its nearest anchors say themselves how much overlap a positive needs. Nearest to the projection of
its 3D centre, that is LIGA-Stereo's change: what is cut off at the image's border keeps its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from frames.anchor_assign import BACKGROUND, Assignment

# How far inside its object a positive anchor's centre lies at least, pixels. It and the unbiased
# standard deviation: xy-guo/mmdetection_kitti, atss_3dcenter_assigner.py.
INSIDE = 0.01
# Of a union, square pixels; as mmdet's ``bbox_overlaps``.
LEAST_AREA = 1e-6


@dataclass(frozen=True, slots=True)
class ImageObjects:
    """Objects in an image.

    Attributes:
        boxes: left, top, right, bottom, pixels.
        centres: Where the 3D boxes' centres are projected to, (u, v), pixels; maybe outside.
        labels: Classes.
    """

    boxes: Float[Tensor, "m 4"]
    centres: Float[Tensor, "m 2"]
    labels: Int64[Tensor, " m"]


def assign_image_anchors(
    levels: Sequence[Float[Tensor, "_ 4"]], objects: ImageObjects, nearest: int
) -> Assignment:
    """Give each object of an image its anchors.

    Candidates are the nearest anchors of each level. Positive are those whose IoU reaches the
    candidates' mean plus standard deviation and whose centre lies in the object's box; of several
    objects an anchor answers for that of the highest IoU. All others are background.

    Args:
        levels: Anchors of each level, left, top, right, bottom, pixels; two at least in all.
        objects: Of the image.
        nearest: Candidates per level (fewer where a level has fewer anchors).
    """
    anchors = torch.cat([*levels])
    if len(objects.labels) == 0:
        label = torch.full((len(anchors),), BACKGROUND, device=anchors.device)
        return Assignment(label, torch.zeros_like(label))
    candidates = _candidates(levels, objects.centres, nearest)
    shared, union = overlap(anchors[candidates], objects.boxes)
    iou = shared / union
    wanted = iou.mean(0) + iou.std(0)
    positive = (iou >= wanted) & _inside(anchors[candidates], objects.boxes)
    # Below any IoU: no candidate.
    claims = iou.new_full((len(anchors), len(objects.labels)), -1)
    claims.scatter_(0, candidates, iou.where(positive, -1))
    most, which = claims.max(1)
    return Assignment(objects.labels[which].where(most >= 0, BACKGROUND), which)


def overlap(
    ours: Float[Tensor, "*n 4"], theirs: Float[Tensor, "*#n 4"]
) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    """Areas of intersection and union of pairs of boxes, left, top, right, bottom."""
    low = torch.maximum(ours[..., :2], theirs[..., :2])
    high = torch.minimum(ours[..., 2:], theirs[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    area, other = ((box[..., 2:] - box[..., :2]).prod(-1) for box in (ours, theirs))
    return shared, (area + other - shared).clamp(min=LEAST_AREA)


def sides(
    anchors: Float[Tensor, "*n 4"], boxes: Float[Tensor, "*#n 4"]
) -> tuple[Float[Tensor, "*n 2"], Float[Tensor, "*n 2"]]:
    """How far the anchors' centres lie from left and top, and from right and bottom, of boxes."""
    centres = (anchors[..., :2] + anchors[..., 2:]) / 2
    return centres - boxes[..., :2], boxes[..., 2:] - centres


def _candidates(
    levels: Sequence[Float[Tensor, "_ 4"]], centres: Float[Tensor, "m 2"], nearest: int
) -> Int64[Tensor, "k m"]:
    found, before = [], 0
    for anchors in levels:
        middle = (anchors[:, None, :2] + anchors[:, None, 2:]) / 2
        distance = (middle - centres).square().sum(-1)
        near = distance.topk(min(nearest, len(anchors)), dim=0, largest=False).indices
        found.append(near + before)
        before += len(anchors)
    return torch.cat(found)


def _inside(anchors: Float[Tensor, "k m 4"], boxes: Float[Tensor, "m 4"]) -> Bool[Tensor, "k m"]:
    near, far = sides(anchors, boxes)
    return torch.minimum(near, far).amin(-1) > INSIDE
