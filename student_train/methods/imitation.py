"""Imitation: the plain control that the five papers compare with.

Two terms: the student's BEV features, through a linear adapter, follow the teacher's on the
foreground cells; and its class heatmap follows the teacher's soft one there.

Axes: B batch, K foreground cells (padded), C channels.
"""

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from frames.anchors import AnchorConfig
from frames.boxes import BoxBatch
from frames.heatmap import CENTER_HEAD, on_grid
from nets.quality_focal import quality_focal
from nets.read_at import read_at
from store.schema import Need, Places, Target
from student_train.methods.base import (
    Method,
    MethodConfig,
    MethodContext,
    MethodResult,
    StudentMaps,
    TeacherTargets,
    TermConfig,
)


class ImitationConfig(MethodConfig):
    """Weights and what is imitated.

    Attributes:
        level: Which BEV map: before or after the BEV backbone.
        mask: Weight of a foreground cell: its Gaussian value, or 1.
        feature: Strength of the feature term.
        heatmap: Strength of the heatmap term.
    """

    level: Literal[Target.BEV_LOW, Target.BEV_HIGH] = Target.BEV_HIGH
    mask: Literal["soft", "binary"] = "soft"
    feature: TermConfig = TermConfig(share=0.3)
    heatmap: TermConfig = TermConfig(share=0.3)


class Imitation(Method):
    """Masked feature and soft heatmap imitation."""

    config_type: ClassVar[type[MethodConfig]] = ImitationConfig
    config: ImitationConfig

    def __init__(self, config: ImitationConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        if "feature" not in config.terms:
            return
        level = config.level
        # On sampled vectors a linear layer is the 1x1 convolution, at a fraction of the cells.
        self.adapter = nn.Linear(context.student_channels[level], context.teacher_channels[level])

    @classmethod
    def needs(
        cls,
        config: MethodConfig,
        anchors: AnchorConfig | None,  # noqa: ARG003
    ) -> frozenset[Need]:
        """The chosen BEV map and the heatmap logits, at the foreground cells."""
        assert isinstance(config, ImitationConfig), f"got {type(config).__name__}"
        reads = {"feature": config.level, "heatmap": Target.HEATMAP_LOGIT}
        return frozenset(Need(reads[term], Places.CELLS) for term in config.terms)

    def forward(
        self, student: StudentMaps, targets: TeacherTargets, boxes: BoxBatch
    ) -> MethodResult:
        """See :class:`Method`."""
        cells, weight = targets.cells, targets.cell_weight[CENTER_HEAD]
        assert cells is not None, "the loader gives cells to a method that needs them"
        points = self.context.grid.to_unit(cells)
        terms: dict[str, Tensor] = {}
        if "feature" in self.config.terms:
            level, used = self.config.level, weight if self.config.mask == "soft" else weight > 0
            adapted = self.adapter(read_at(student.features[level], points))
            feature = feature_loss(adapted, targets.at_cells[level], used.to(weight))
            terms["feature"] = self.config.feature.weight * feature
        if "heatmap" in self.config.terms:
            logit = read_at(student.center.heatmap_logit, points)
            count = on_grid(boxes, self.context.grid).sum()
            heatmap = heatmap_loss(logit, targets.at_cells[Target.HEATMAP_LOGIT], weight > 0, count)
            terms["heatmap"] = self.config.heatmap.weight * heatmap
        return MethodResult(terms)


def feature_loss(
    student: Float[Tensor, "b k c"], teacher: Float[Tensor, "b k c"], weight: Float[Tensor, "b k"]
) -> Float[Tensor, ""]:
    """Squared difference, mean over channels, weighted mean over each frame's cells, then frames.

    Args:
        student: Adapted student features.
        teacher: Teacher features, no gradient.
        weight: Weight of each cell, 0 on padding.
    """
    gap = (student - teacher.detach().float()).square().mean(-1)
    total = weight.sum(1)
    return ((gap * weight).sum(1) / total.clamp(min=1e-6)).mean()


def heatmap_loss(
    student_logit: Float[Tensor, "b k c"],
    teacher_logit: Float[Tensor, "b k c"],
    valid: Bool[Tensor, "b k"],
    count: Int64[Tensor, ""],
) -> Float[Tensor, ""]:
    """Quality focal loss against the teacher's probabilities, summed, per object of the batch.

    Cross entropy weighted by the squared gap of the probabilities (Li et al., Generalized Focal
    Loss, eq. 2 with beta 2): zero exactly where the student agrees.

    Args:
        student_logit: Student's class logits at the cells.
        teacher_logit: Teacher's, no gradient.
        valid: Cells that count.
        count: Objects in the batch, at least 1 is used.
    """
    target = teacher_logit.detach().float().sigmoid()
    per_cell = quality_focal(student_logit.float(), target).sum(-1)
    return torch.where(valid, per_cell, 0.0).sum() / count.clamp(min=1)
