"""What a teacher says at positive anchors against the truth, and what would be distilled of it.

Functions of boxes and anchors, wherever these come from; ``of_row`` takes them from a cache.
Boxes are x y z l w h yaw, metres and radians, yaws before the direction fix: a heading and its
reverse are alike, as they are to XGD.

Axes: N positive anchors.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from frames.anchor_assign import anchor_table
from frames.anchor_code import encode_at_anchors
from frames.anchors import BOX_CODE, AnchorConfig
from frames.boxes import CENTRE, SIZE, YAW, Boxes3D
from frames.detection_classes import KITTI_CLASSES
from frames.geometry import wrap_angle
from frames.kitti.scoring import LEAST_OVERLAPS, Metric, Overlap
from frames.rotated_iou import iou_3d
from student_train.methods.anchor_xgd import AnchorXgdConfig, anchor_xgd

# The whole-box threshold that XGD is compared with: KITTI's overlaps and a usual score.
LEAST_SCORE = 0.3
LEAST_IOU = LEAST_OVERLAPS[Metric.AP_3D][Overlap.STRICT]


@dataclass(frozen=True, slots=True, kw_only=True)
class AtPositives:
    """Positive anchors of any number of frames.

    Attributes:
        anchors: Their own boxes.
        teacher: The boxes a teacher says there.
        truth: The objects they answer for.
        scores: The teacher's probability of the object's class.
        labels: Classes of the objects.
    """

    anchors: Float[Tensor, "n 7"]
    teacher: Float[Tensor, "n 7"]
    truth: Float[Tensor, "n 7"]
    scores: Float[Tensor, " n"]
    labels: Int64[Tensor, " n"]

    @classmethod
    def join(cls, parts: Sequence["AtPositives"]) -> "AtPositives":
        """One after the other."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})

    def of_class(self, label: int) -> "AtPositives":
        """Those whose object is of a class."""
        own = self.labels == label
        return AtPositives(**{field.name: getattr(self, field.name)[own] for field in fields(self)})


def of_row(arrays: Mapping[str, np.ndarray], gt: Boxes3D, config: AnchorConfig) -> AtPositives:
    """The positive anchors of a cached frame.

    Args:
        arrays: ``anchors/...``.
        gt: Its ground truth.
        config: The anchors.
    """
    index, owner = (
        torch.from_numpy(arrays[f"anchors/{name}"]).long() for name in ("index", "object")
    )
    return AtPositives(
        anchors=anchor_table(config)[index],
        teacher=torch.from_numpy(arrays["anchors/box"]),
        truth=gt.values[owner, :BOX_CODE],
        scores=torch.from_numpy(arrays["anchors/score"]),
        labels=gt.labels[owner],
    )


def component_errors(at: AtPositives) -> dict[str, Float[Tensor, " n"]]:
    """Metres between centres; largest factor between lengths, widths or heights; radians."""
    factors = (at.teacher[:, SIZE] / at.truth[:, SIZE]).log().abs()
    return {
        "position": (at.teacher[:, CENTRE] - at.truth[:, CENTRE]).norm(dim=1),
        "size": factors.amax(1).exp(),
        "heading": wrap_angle(at.teacher[:, YAW] - at.truth[:, YAW], math.pi).abs(),
    }


def pass_whole_box(at: AtPositives) -> Bool[Tensor, " n"]:
    """Where the teacher's box overlaps the object's enough, and is sure enough of its class."""
    least = torch.tensor([LEAST_IOU[kind] for kind in KITTI_CLASSES])[at.labels]
    return (iou_3d(at.teacher, at.truth) >= least) & (at.scores >= LEAST_SCORE)


def passing_pilots(
    at: AtPositives, student: Float[Tensor, "n 7"], config: AnchorXgdConfig
) -> dict[str, Bool[Tensor, " n"]]:
    """For each component, where XGD's gate keeps it for a student with these codes."""
    teacher, truth = (encode_at_anchors(boxes, at.anchors) for boxes in (at.teacher, at.truth))
    kept, _ = anchor_xgd(student, teacher, truth, at.anchors, config)
    return {name: (weight > 0).all(1) for name, weight in kept.items()}


def noisy_student(
    at: AtPositives, sigma: float, generator: torch.Generator, further: float = 0.0
) -> Float[Tensor, "n 7"]:
    """Codes of a student whose errors are drawn.

    Args:
        at: Where.
        sigma: Standard deviation of every number of the code.
        generator: Draws.
        further: Share of the distance to the sensor by which all its boxes are too far.
    """
    boxes = at.truth.clone()
    boxes[:, CENTRE] *= 1 + further
    noise = torch.randn(boxes.shape, generator=generator)
    return encode_at_anchors(boxes, at.anchors) + sigma * noise
