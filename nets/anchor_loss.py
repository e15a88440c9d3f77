"""Detection loss on anchors: LIGA-Stereo's, shared by student and teacher.

Source: LIGA-Stereo, commit aee3731. Sums over anchors are divided by the positives of a frame of
the batch in the mean (not averaged over ranks here), then by the frames.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat
from torch import Tensor

from frames.anchor_assign import IGNORED, Assignment, assign_anchors
from frames.anchor_code import decode_at_anchors, encode_at_anchors
from frames.anchors import BOX_CODE, AnchorConfig
from frames.boxes import BoxBatch
from frames.rotated_iou import iou_3d
from nets.anchor_head import DIRECTIONS, AnchorMaps

# Added to the positives for classes, and their least number for boxes and in the methods' terms.
LEAST_COUNT = 10
# A heading and its reverse lie in different half turns; the first begins here, radians.
DIRECTION_OFFSET = 0.78539
YAW = 6


class FocalConfig(BaseModel):
    """Shape of the sigmoid focal loss; defaults are RetinaNet's.

    Attributes:
        alpha: Weight of positives.
        gamma: How little an easy anchor counts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    alpha: NonNegativeFloat = 0.25
    gamma: NonNegativeFloat = 2.0


class AnchorLossConfig(FocalConfig):
    """Weights of the terms; defaults are LIGA-Stereo's.

    Attributes:
        classes: Of the focal loss.
        box: Of smooth L1 on the code.
        iou: Of one minus the 3D IoU of the decoded box.
        direction: Of the half turn's cross-entropy.
        beta: Where smooth L1 turns linear.
    """

    classes: NonNegativeFloat = 1.0
    box: NonNegativeFloat = 0.5
    iou: NonNegativeFloat = 1.0
    direction: NonNegativeFloat = 0.2
    beta: PositiveFloat = 1 / 9


def anchor_loss(
    maps: AnchorMaps,
    assignments: list[Assignment],
    boxes: list[Float[Tensor, "_ 7"]],
    anchors: Float[Tensor, "n 7"],
    config: AnchorLossConfig,
) -> dict[str, Float[Tensor, ""]]:
    """Weighted terms "classes", "box", "iou" and "direction" of a batch.

    Args:
        maps: Predictions.
        assignments: Of each frame.
        boxes: Its objects, x y z l w h yaw: those of which the assignments speak.
        anchors: All.
        config: Weights.
    """
    frames = len(assignments)
    label = torch.stack([own.label for own in assignments])
    positive = label >= 0
    per_frame = positive.sum() / frames
    focal = focal_loss(maps.logit, label, config).sum() / (per_frame + LEAST_COUNT)
    wanted = torch.cat(
        [at[own.box[own.positive]] for own, at in zip(assignments, boxes, strict=True)]
    )
    own_anchors = anchors.expand(frames, -1, -1)[positive]
    code = maps.code[positive]
    terms = {
        "classes": config.classes * focal,
        "box": config.box * code_distance(code, encode_at_anchors(wanted, own_anchors), config),
        "iou": config.iou * (1 - iou_3d(decode_at_anchors(code, own_anchors), wanted)),
        "direction": config.direction
        * F.cross_entropy(maps.direction[positive], direction(wanted[:, YAW]), reduction="none"),
    }
    few = per_frame.clamp(min=LEAST_COUNT)
    return {
        name: (term if name == "classes" else term.sum() / few) / frames
        for name, term in terms.items()
    }


def detection_loss(
    maps: AnchorMaps,
    boxes: BoxBatch,
    config: AnchorConfig,
    anchors: Float[Tensor, "n 7"],
    loss: AnchorLossConfig,
) -> dict[str, Float[Tensor, ""]]:
    """The terms of :func:`anchor_loss` against ground truth that has no anchors yet."""
    objects = [own[valid, :BOX_CODE] for own, valid in zip(boxes.values, boxes.valid, strict=True)]
    labels = [own[valid] for own, valid in zip(boxes.labels, boxes.valid, strict=True)]
    assignments = [
        assign_anchors(config, anchors, own, label)
        for own, label in zip(objects, labels, strict=True)
    ]
    return anchor_loss(maps, assignments, objects, anchors, loss)


def focal_loss(
    logit: Float[Tensor, "b n classes"], label: Int64[Tensor, "b n"], config: FocalConfig
) -> Float[Tensor, "b n"]:
    """Sigmoid focal loss, summed over classes; 0 where the anchor is ignored."""
    target = label[..., None] == torch.arange(logit.shape[-1], device=label.device)
    missed = torch.where(target, 1 - logit.sigmoid(), logit.sigmoid())
    weight = torch.where(target, config.alpha, 1 - config.alpha)
    entropy = F.binary_cross_entropy_with_logits(logit, target.to(logit), reduction="none")
    counts: Bool[Tensor, "b n"] = label != IGNORED
    return (weight * missed**config.gamma * entropy).sum(-1) * counts


def code_distance(
    code: Float[Tensor, "n 7"], target: Float[Tensor, "n 7"], config: AnchorLossConfig
) -> Float[Tensor, " n"]:
    """Smooth L1 summed over the code; the yaw's is that of the sine of the difference.

    A heading and its reverse are alike to it: the direction classifier tells them apart.
    """
    # sin(a) cos(b) and cos(a) sin(b), as released: their difference is sin(a - b).
    yaw, wanted = code[:, YAW:], target[:, YAW:]
    ours = torch.cat([code[:, :YAW], yaw.sin() * wanted.cos()], 1)
    theirs = torch.cat([target[:, :YAW], yaw.cos() * wanted.sin()], 1)
    return F.smooth_l1_loss(ours, theirs, reduction="none", beta=config.beta).sum(1)


def direction(yaw: Float[Tensor, "*n"]) -> Int64[Tensor, "*n"]:
    """In which half turn from ``DIRECTION_OFFSET`` on a heading lies: 0 or 1."""
    turn = torch.remainder(yaw - DIRECTION_OFFSET, math.tau)
    return (turn / math.pi).long().clamp(max=DIRECTIONS - 1)


def directed(yaw: Float[Tensor, "*n"], half_turn: Int64[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """The heading, or its reverse, that lies in the half turn; in it, so up to 7.07 radians."""
    within = torch.remainder(yaw - DIRECTION_OFFSET, math.pi)
    return within + DIRECTION_OFFSET + math.pi * half_turn
