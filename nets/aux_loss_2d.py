"""Loss of LIGA-Stereo's 2D head: focal classes, GIoU of boxes, centreness.

LIGA-Stereo, commit aee3731. Formulas: Zhang et al., CVPR 2020 (ATSS), as in
xy-guo/mmdetection_kitti, atss_adv_head.py; GIoU: Rezatofighi et al., CVPR 2019.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from nets.anchor_loss import FocalConfig, focal_loss
from nets.atss import ImageObjects, assign_image_anchors, overlap, sides
from nets.aux_head_2d import ImageMaps

# Box codes are in these parts of the anchor's side (centre) and of the logarithm of the ratio.
CENTRE_STD, SIZE_STD = 0.1, 0.2
# No decoded side is further from its anchor's than this ratio: mmdet's ``DeltaXYWHBBoxCoder``.
LARGEST_RATIO = 1000 / 16
# Where no anchor is positive.
LEAST_WEIGHT = 1e-12


class AuxLoss2DConfig(FocalConfig):
    """Weights of the terms, and the assignment; defaults are LIGA-Stereo's.

    Attributes:
        classes: Of the focal loss.
        box: Of one minus the GIoU of the decoded box.
        centreness: Of its cross-entropy.
        nearest: Candidates of each level for an object's anchors.
    """

    classes: NonNegativeFloat = 1.0
    box: NonNegativeFloat = 2.0
    centreness: NonNegativeFloat = 1.0
    nearest: PositiveInt = 9


def image_loss(
    maps: ImageMaps, objects: list[ImageObjects], config: AuxLoss2DConfig
) -> dict[str, Float[Tensor, ""]]:
    """Weighted terms "classes", "box" and "centreness" of a batch.

    Classes and centreness are divided by the positives of the batch, a frame without any counting
    as one; boxes are averaged with their anchors' centreness as weight. (Not over ranks here.)

    Args:
        maps: Predictions.
        objects: Of each frame.
        config: Weights.
    """
    anchors = torch.cat(maps.anchors)
    own = [assign_image_anchors(maps.anchors, frame, config.nearest) for frame in objects]
    label = torch.stack([frame.label for frame in own])
    positive = label >= 0
    wanted = torch.cat(
        [at.boxes[frame.box[frame.positive]] for frame, at in zip(own, objects, strict=True)]
    )
    own_anchors = anchors.expand(len(own), -1, -1)[positive]
    found = decode_image_boxes(maps.code[positive, label[positive]], own_anchors)
    central = centreness(own_anchors, wanted)
    positives = positive.sum(1).clamp(min=1).sum()
    entropy = F.binary_cross_entropy_with_logits(
        maps.centreness[positive], central, reduction="sum"
    )
    apart = (central * (1 - giou(found, wanted))).sum() / central.sum().clamp(min=LEAST_WEIGHT)
    return {
        "classes": config.classes * focal_loss(maps.logit, label, config).sum() / positives,
        "box": config.box * apart,
        "centreness": config.centreness * entropy / positives,
    }


def decode_image_boxes(
    code: Float[Tensor, "n 4"], anchors: Float[Tensor, "n 4"]
) -> Float[Tensor, "n 4"]:
    """Boxes, left, top, right, bottom, from codes of centre and size at anchors."""
    size = anchors[:, 2:] - anchors[:, :2]
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2 + code[:, :2] * CENTRE_STD * size
    limit = math.log(LARGEST_RATIO)
    half = size * (code[:, 2:] * SIZE_STD).clamp(-limit, limit).exp() / 2
    return torch.cat([centre - half, centre + half], 1)


def centreness(anchors: Float[Tensor, "n 4"], boxes: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
    """How central anchors are in boxes that hold their centres: 1 in the middle, 0 at the border.

    Source: Tian et al., ICCV 2019 (FCOS), equation 3.
    """
    near, far = sides(anchors, boxes)
    return (torch.minimum(near, far) / torch.maximum(near, far)).prod(1).sqrt()


def giou(ours: Float[Tensor, "n 4"], theirs: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
    """IoU less the share of the pair's hull that neither box covers: from -1 to 1."""
    shared, union = overlap(ours, theirs)
    low = torch.minimum(ours[:, :2], theirs[:, :2])
    high = torch.maximum(ours[:, 2:], theirs[:, 2:])
    hull = (high - low).prod(1)
    return shared / union - (hull - union) / hull
