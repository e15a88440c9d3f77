"""Naive response distillation: what LIGA-Stereo's author found to be of little use.

LIGA-Stereo, GitHub issue 11: the teacher's probabilities are
soft targets of the classification, its box codes are L1 targets at all positive anchors, the whole
box, no gate. StereoDistill's foil, and here its ablation.

Axes: N positive anchors, Q cells, A anchors of a cell, C classes.
"""

from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from frames.anchor_code import encode_at_anchors
from frames.anchors import AnchorConfig
from frames.boxes import BoxBatch
from nets.anchor_loss import LEAST_COUNT
from store.schema import Need, Target
from student_train.methods.at_anchors import (
    boxes_at_anchors,
    cells_of,
    in_positive_cells,
    logits_at,
    logits_at_positives,
    read_positives,
    student_anchors,
)
from student_train.methods.base import (
    Method,
    MethodConfig,
    MethodContext,
    MethodResult,
    StudentMaps,
    TeacherTargets,
    TermConfig,
)


class ResponseConfig(MethodConfig):
    """Weights; the detection loss's own.

    Attributes:
        logit: Strength of the soft classification.
        box: Strength of the distance of the boxes.
    """

    logit: TermConfig = TermConfig(weight=1.0)
    box: TermConfig = TermConfig(weight=0.5)


class Response(Method):
    """Follow the teacher's outputs, right or wrong."""

    config_type: ClassVar[type[MethodConfig]] = ResponseConfig
    config: ResponseConfig
    table: Tensor

    def __init__(self, config: ResponseConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        self.register_buffer("table", student_anchors(context).boxes(), persistent=False)

    @classmethod
    def needs(
        cls,
        config: MethodConfig,
        anchors: AnchorConfig | None,
    ) -> frozenset[Need]:
        """Boxes at positive anchors, logits at their cells."""
        if "logit" in config.terms:
            return logits_at_positives(anchors)
        return frozenset({boxes_at_anchors(anchors)})

    def forward(
        self, student: StudentMaps, targets: TeacherTargets, boxes: BoxBatch
    ) -> MethodResult:
        """See :class:`Method`."""
        frames, terms = len(boxes.valid), dict[str, Tensor]()
        if "logit" in self.config.terms:
            anchors = student_anchors(self.context)
            cell, valid = cells_of(targets, anchors.grid)
            valid = valid & in_positive_cells(cell, targets, anchors)
            theirs = targets.at_cells[Target.ANCHOR_LOGIT].float()[valid]
            soft = soft_cross_entropy(logits_at(student, cell, anchors)[valid].flatten(1), theirs)
            terms["logit"] = self.config.logit.weight * _per_frame(soft, frames)
        if "box" in self.config.terms:
            found = read_positives(student, targets, boxes, self.table)
            code = encode_at_anchors(found.teacher, found.anchors)
            gap = code_l1(found.code, code)
            terms["box"] = self.config.box.weight * _per_frame(gap, frames)
        return MethodResult(terms)


def soft_cross_entropy(
    student: Float[Tensor, "q ac"], teacher: Float[Tensor, "q ac"]
) -> Float[Tensor, " q"]:
    """Binary cross-entropy with the teacher's probability, summed over the logits of a cell."""
    target = teacher.detach().sigmoid()
    return F.binary_cross_entropy_with_logits(student, target, reduction="none").sum(1)


def code_l1(student: Float[Tensor, "n 7"], teacher: Float[Tensor, "n 7"]) -> Float[Tensor, " n"]:
    """Distance of the codes, summed; that of the heading is of its sine."""
    gap = student - teacher.detach()
    return gap[:, :6].abs().sum(1) + gap[:, 6].sin().abs()


def _per_frame(values: Float[Tensor, " n"], frames: int) -> Float[Tensor, ""]:
    """As the detection loss normalises: by the mean count of a frame, then by the frames."""
    return values.sum() / max(len(values) / frames, LEAST_COUNT) / frames
