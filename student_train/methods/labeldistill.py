"""LabelDistill: a camera student learns from LiDAR features and from embedded labels.

Kim et al., ECCV 2024; its code, commit 274ab26dc1. A third of the
student's BEV channels, through an adapter, follows a label encoder's features, a third the LiDAR
teacher's, a third is free; at full resolution before the BEV backbone (level 0), and after the
backbone's first stage at half resolution (level 1). The student's head follows the teacher's.

Where the released code does otherwise than it means to, both are values of the config:

- Its thirds at level 0 are of the concatenated time steps, most of them without gradient, so that
  the LiDAR loss never reaches the student there. ``intended`` takes thirds of each time step.
- Its heatmap target is p of the teacher times the Gaussian, below 1 everywhere, so that the focal
  loss has no positive cell. ``soft_target`` is the quality focal loss against the same target.

Its teacher's BatchNorm runs in train mode; a cached teacher's does not.

Axes: B batch, K cells (Q at half resolution, P at either; padded), M boxes, C channels.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, NonNegativeFloat, model_validator
from torch import Tensor, nn

from frames.anchors import AnchorConfig
from frames.box_code import CODE_SIZE
from frames.boxes import BoxBatch
from frames.heatmap import center_heatmap, halved, inside_gaussians
from nets.bev_resnet import BasicBlock
from nets.center_head import codes_at
from nets.center_loss import (
    PROBABILITY_CLIP,
    box_loss,
    over_peaks,
    penalty_reduced_focal,
    task_peaks,
)
from nets.quality_focal import quality_focal
from nets.read_at import read_at
from runs.errors import ConfigError
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
from student_train.methods.label_embedding import LabelEmbedding

THIRDS = 3
LABEL, LIDAR = 0, 1  # the student's first and second third; the last is free
# The student's map of each level, and the teachers'.
STUDENT_LEVELS = (Target.BEV_LOW, Target.STAGE_1)
LIDAR_LEVELS = (Target.STAGE_0, Target.STAGE_1)
LABEL_LEVELS = (Target.LABEL_0, Target.LABEL_1)
LEVEL_PLACES = (Places.CELLS, Places.COARSE_CELLS)

Labels = Literal["cache", "ground_truth", "none"]
Response = Literal["soft_target", "official_dead_positive"]
Mask = Literal["soft", "binary"]


class LabelDistillConfig(MethodConfig):
    """Switches and weights; the weights are those of the released code.

    Attributes:
        partition: Thirds of each time step's channels, or of all as they lie.
        labels: Where label features come from: the cache; ground truth, which the label encoder
            embeds in every step as the student's frame has it; or nowhere, which leaves the
            LiDAR's. None: ground truth if there is a label encoder, else the cache.
        label_encoder: Its checkpoint, for ``ground_truth``: of ``train-label-encoder``, trained for
            the teacher of the cache.
        lidar_mask: Weight of a cell in the LiDAR's term: the sum of its classes' Gaussians (above 1
            where they overlap), or 1.
        label_mask: The same in the label's.
        response: How the heatmap follows the teacher's.
        code: Weight of each entry of the box code.
        lidar: Strength of the LiDAR's features.
        label: Strength of the labels' features.
        heatmap: Strength of the response's heatmap part.
        box: Strength of its box part; 0.25 is the weight in the detection loss.
    """

    partition: Literal["intended", "official"] = "intended"
    labels: Labels | None = None
    label_encoder: Path | None = None
    lidar_mask: Mask = "soft"
    label_mask: Mask = "binary"
    response: Response = "soft_target"
    code: tuple[NonNegativeFloat, ...] = Field(
        (1.0,) * CODE_SIZE, min_length=CODE_SIZE, max_length=CODE_SIZE
    )
    lidar: TermConfig = TermConfig(weight=0.3)
    label: TermConfig = TermConfig(weight=0.3)
    heatmap: TermConfig = TermConfig(weight=1.0)
    box: TermConfig = TermConfig(weight=0.25)

    @model_validator(mode="after")
    def _encoder_given(self) -> "LabelDistillConfig":
        if self.labels == "ground_truth" and self.label_encoder is None:
            raise ValueError(
                'labels = "ground_truth" embeds boxes with a label encoder: set label_encoder to '
                "the label_encoder.pt of train-label-encoder, or give train-student "
                "--label-encoder"
            )
        return self

    @property
    def source(self) -> Labels:
        """Where label features come from, told or not."""
        return self.labels or ("ground_truth" if self.label_encoder else "cache")

    @property
    def terms(self) -> AbstractSet[str]:
        """Without label features their term does not count either."""
        return super().terms - ({"label"} if self.source == "none" else set())


class LabelDistill(Method):
    """Partitioned feature distillation from LiDAR and labels, and response distillation."""

    config_type: ClassVar[type[MethodConfig]] = LabelDistillConfig
    config: LabelDistillConfig

    def __init__(self, config: LabelDistillConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        self.frames = context.student_frames if config.partition == "intended" else 1
        self.embedding: LabelEmbedding | None = None
        self.lidar_adaptors: nn.ModuleList | None = None
        self.label_adaptors: nn.ModuleList | None = None
        of_teacher = context.teacher_channels
        if "lidar" in config.terms:
            self.lidar_adaptors = self._adapters([of_teacher[level] for level in LIDAR_LEVELS])
        if "label" not in config.terms:
            return
        if config.source == "ground_truth":
            assert config.label_encoder is not None, "the config sees to it"
            self.embedding = LabelEmbedding(config.label_encoder, context)
            self.label_adaptors = self._adapters(self.embedding.channels)
        else:
            self.label_adaptors = self._adapters([of_teacher[level] for level in LABEL_LEVELS])

    def _adapters(self, channels: Sequence[int]) -> nn.ModuleList:
        student = self.context.student_channels
        if missing := [str(level) for level in STUDENT_LEVELS if level not in student]:
            raise ConfigError(
                f"labeldistill reads the student's maps {' and '.join(map(str, STUDENT_LEVELS))}; "
                f"it has no {missing[0]}: give its BEV backbone a stage at half resolution "
                "(strides of 2 in all), or take xgd or imitation"
            )
        low, half = (student[level] for level in STUDENT_LEVELS)
        widths = (self.frames * (low // self.frames // THIRDS), half // THIRDS)
        return nn.ModuleList(map(adapter, widths, channels))

    @classmethod
    def needs(
        cls,
        config: MethodConfig,
        anchors: AnchorConfig | None,  # noqa: ARG003
    ) -> frozenset[Need]:
        """Two levels of LiDAR and of label features, heatmap logits, box codes."""
        assert isinstance(config, LabelDistillConfig), f"got {type(config).__name__}"
        reads: dict[str, tuple[tuple[Target, Places], ...]] = {
            "lidar": tuple(zip(LIDAR_LEVELS, LEVEL_PLACES, strict=True)),
            "label": tuple(zip(LABEL_LEVELS, LEVEL_PLACES, strict=True)),
            "heatmap": ((Target.HEATMAP_LOGIT, Places.CELLS),),
            "box": ((Target.BOX_CODE, Places.BOXES),),
        }
        if config.source != "cache":
            del reads["label"]
        return frozenset(Need(*place) for term in config.terms for place in reads.get(term, ()))

    def forward(
        self, student: StudentMaps, targets: TeacherTargets, boxes: BoxBatch
    ) -> MethodResult:
        """See :class:`Method`."""
        ways = {
            "lidar": self._lidar,
            "label": self._label,
            "heatmap": self._heatmap,
            "box": self._box,
        }
        terms = {
            name: getattr(self.config, name).weight * way(student, targets, boxes)
            for name, way in ways.items()
            if name in self.config.terms
        }
        return MethodResult(terms)

    def _lidar(self, student: StudentMaps, targets: TeacherTargets, _boxes: BoxBatch) -> Tensor:
        own = self._adapted(student, self.lidar_adaptors, LIDAR)
        return self._at_cells(own, targets, LIDAR_LEVELS, self.config.lidar_mask)

    def _label(self, student: StudentMaps, targets: TeacherTargets, boxes: BoxBatch) -> Tensor:
        own, mask = self._adapted(student, self.label_adaptors, LABEL), self.config.label_mask
        if self.embedding is None:
            return self._at_cells(own, targets, LABEL_LEVELS, mask)
        heatmap = center_heatmap(boxes, self.context.grid, len(self.context.classes))
        weight = heatmap.sum(1, keepdim=True)
        losses = [
            feature_loss(_cells(ours), _cells(theirs), _masked(level.flatten(1), mask))
            for ours, theirs, level in zip(
                own, self.embedding(boxes), (weight, halved(weight)), strict=True
            )
        ]
        return losses[0] + losses[1]

    def _adapted(
        self, student: StudentMaps, adapters: nn.ModuleList | None, third: int
    ) -> list[Tensor]:
        assert adapters is not None, "a term that counts has its adapters"
        low, half = (student.features[level] for level in STUDENT_LEVELS)
        parts = (channel_third(low, third, self.frames), channel_third(half, third))
        return [module(part) for module, part in zip(adapters, parts, strict=True)]

    def _at_cells(
        self, own: Sequence[Tensor], targets: TeacherTargets, levels: Sequence[Target], mask: Mask
    ) -> Tensor:
        """The student's adapted maps against what the cache holds at the foreground cells."""
        assert targets.cells is not None, "the loader gives cells to a method that needs them"
        assert targets.cell_heatmap is not None, "and the heatmap there"
        assert targets.coarse_cells is not None, "and the same at half resolution"
        assert targets.coarse_weight is not None, "and the heatmap resized"
        full = (targets.cells, targets.at_cells[levels[0]], targets.cell_heatmap.sum(-1))
        half = (targets.coarse_cells, targets.at_coarse_cells[levels[1]], targets.coarse_weight)
        losses = [
            feature_loss(
                read_at(ours, self.context.grid.to_unit(points)), theirs, _masked(weight, mask)
            )
            for ours, (points, theirs, weight) in zip(own, (full, half), strict=True)
        ]
        return losses[0] + losses[1]

    def _heatmap(self, student: StudentMaps, targets: TeacherTargets, boxes: BoxBatch) -> Tensor:
        assert targets.cells is not None, "the loader gives cells to a method that needs them"
        assert targets.cell_heatmap is not None, "and the heatmap there"
        grid, head, form = self.context.grid, student.center, self.config.response
        logit = read_at(head.heatmap_logit, grid.to_unit(targets.cells))
        teacher = targets.at_cells[Target.HEATMAP_LOGIT]
        inside = response_at_cells(logit, teacher, targets.cell_heatmap, form)
        away = response_elsewhere(head.heatmap_logit, ~inside_gaussians(boxes, grid), form)
        truth = center_heatmap(boxes, grid, len(self.context.classes))
        return over_peaks(inside + away, task_peaks(truth, head.class_task))

    def _box(self, student: StudentMaps, targets: TeacherTargets, boxes: BoxBatch) -> Tensor:
        assert targets.codes is not None, "the loader gives codes to a method that needs them"
        assert targets.coded is not None, "and whether there is one"
        head = student.center
        code = codes_at(head, boxes.labels, self.context.grid.cell_index(boxes.values[..., :2]))
        return box_loss(
            code,
            targets.codes.detach(),
            head.class_task[boxes.labels],
            targets.coded & boxes.valid,
            code.new_tensor(self.config.code),
        )


def adapter(in_channels: int, out_channels: int) -> nn.Sequential:
    """From a third of the student's channels to a teacher's map; not needed once trained."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode="replicate"),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
        BasicBlock(out_channels, out_channels),
    )


def channel_third(
    features: Float[Tensor, "b c h w"], third: int, frames: int = 1
) -> Float[Tensor, "b _ h w"]:
    """One third of the channels, or, of each of several concatenated maps, one third of its own.

    Args:
        features: Channels of one map after the other.
        third: 0, 1 or 2; what three does not divide is left over.
        frames: How many maps; 1 takes contiguous thirds of everything.
    """
    batch, _, rows, cols = features.shape
    each = features.reshape(batch, frames, -1, rows, cols)
    width = each.shape[2] // THIRDS
    return each[:, :, third * width : (third + 1) * width].flatten(1, 2)


def feature_loss(
    student: Float[Tensor, "b p c"], teacher: Float[Tensor, "b p c"], weight: Float[Tensor, "b p"]
) -> Float[Tensor, ""]:
    """Squared difference, summed over channels, a weighted mean over all cells of the batch.

    Args:
        student: Adapted student features.
        teacher: Teacher features, no gradient.
        weight: Of each cell, 0 on padding; their sum counts as at least 1.
    """
    gap = (student - teacher.detach().to(student)).square().sum(-1)
    return (weight * gap).sum() / weight.sum().clamp(min=1)


def response_at_cells(
    student_logit: Float[Tensor, "b k c"],
    teacher_logit: Float[Tensor, "b k c"],
    heatmap: Float[Tensor, "b k c"],
    form: Response,
) -> Float[Tensor, " c"]:
    """The heatmap's response loss inside the Gaussians, each class summed over cells.

    Args:
        student_logit: Student's class logits at the cells.
        teacher_logit: Teacher's, no gradient.
        heatmap: Ground truth's there; cells where it is 0 for all classes do not count.
        form: Which loss takes the target: teacher probability times heatmap.
    """
    prob = teacher_logit.detach().to(student_logit).sigmoid()
    target = prob.clamp(PROBABILITY_CLIP, 1 - PROBABILITY_CLIP) * heatmap
    each = _response(student_logit, target, form)
    return torch.where((heatmap > 0).any(-1, keepdim=True), each, 0.0).sum((0, 1))


def response_elsewhere(
    student_logit: Float[Tensor, "b c h w"], outside: Bool[Tensor, "b h w"], form: Response
) -> Float[Tensor, " c"]:
    """The same where the target is 0: it says what ground truth says, and needs no teacher."""
    each = _response(student_logit, torch.zeros_like(student_logit), form)
    return torch.where(outside[:, None], each, 0.0).sum((0, 2, 3))


def _cells(maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b p c"]:
    """A map as all of its cells."""
    return maps.float().flatten(2).mT


def _masked(weight: Tensor, mask: Mask) -> Tensor:
    return (weight > 0).to(weight) if mask == "binary" else weight


def _response(logit: Tensor, target: Tensor, form: Response) -> Tensor:
    if form == "soft_target":
        return quality_focal(logit, target)
    return penalty_reduced_focal(logit, target)
