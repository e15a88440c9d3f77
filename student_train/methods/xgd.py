"""XGD, X-component Guided Distillation, on a centre head.

StereoDistill (Liu et al., AAAI 2023, arXiv 2301.01615) defines it on anchors; no code was
released. Here the box code at each ground-truth centre cell is split into position, size, heading
and (a centre head has it) velocity. For each component the "pilots" student -> teacher and
student -> ground truth are compared: if the angle between them is acute, the teacher's component
is distilled. Every choice the paper leaves open is a config value (docs/methods.md).
Matching has no meaning here: teacher, student and ground truth share the cell.

Axes: N boxes, codes as in ``frames/box_code.py``.
"""

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from frames.anchors import AnchorConfig
from frames.box_code import (
    CODE_VELOCITY,
    HEIGHT,
    LOG_SIZE,
    OFFSET,
    SIN_COS,
    encode_boxes,
    encode_boxes_at,
)
from frames.boxes import BoxBatch
from frames.geometry import wrap_angle
from frames.heatmap import on_grid
from nets.center_head import codes_at
from store.schema import Need, Places, Target
from student_train.methods.base import (
    Method,
    MethodConfig,
    MethodResult,
    StudentMaps,
    TeacherTargets,
    TermConfig,
)

RIGHT_ANGLE = 90.0
COMPONENTS: dict[str, slice] = {
    "position": slice(0, 3),
    "size": LOG_SIZE,
    "heading": SIN_COS,
    "velocity": CODE_VELOCITY,
}
GROUPS: dict[str, dict[str, tuple[slice, ...]]] = {
    "components": {name: (part,) for name, part in COMPONENTS.items()},
    "split_z": {
        **{name: (part,) for name, part in COMPONENTS.items()},
        "position": (OFFSET, HEIGHT),
    },
    "scalars": {
        # Sine and cosine are one scalar, the heading.
        name: (part,)
        if name == "heading"
        else tuple(slice(k, k + 1) for k in range(part.start, part.stop))
        for name, part in COMPONENTS.items()
    },
}


class ComponentWeights(BaseModel):
    """Weight of each component; velocity's is mmdet3d's code weight."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    position: float = Field(1.0, ge=0)
    size: float = Field(1.0, ge=0)
    heading: float = Field(1.0, ge=0)
    velocity: float = Field(0.2, ge=0)


class GateConfig(MethodConfig):
    """Which of the teacher's components are distilled.

    Attributes:
        gate: ``acute`` keeps a component if the pilots' angle is below ``max_angle``; ``cosine``
            and ``cosine_squared`` weight it; ``closer`` asks that the teacher be nearer to the
            ground truth than the student is, |t - g| < |s - g|; ``static`` looks at the
            teacher's error alone, |t - g| < tolerance; ``none`` keeps everything.
        max_angle: Degrees between the pilots below which ``acute`` keeps a component.
        tolerance: Largest teacher error of the static gate, in the units of the pilots' space.
    """

    gate: Literal["acute", "cosine", "cosine_squared", "closer", "static", "none"] = "acute"
    max_angle: float = Field(RIGHT_ANGLE, gt=0, le=RIGHT_ANGLE)
    tolerance: float = Field(0.5, gt=0)


class XgdConfig(GateConfig):
    """Every choice that the paper leaves open; docs/methods.md says where each comes from.

    Attributes:
        space: Where pilots are compared: the head's code, or metres and radians.
        granularity: Components as in the paper's figure, position split into plane and height,
            single scalars, or the whole box (kept only if every component is).
        min_score: Teacher boxes scored lower for the object's class are not distilled.
        loss: Distance between the codes; the centre head's own is L1.
        beta: Where smooth L1 turns linear (LIGA's 1/9).
        normaliser: Objects in the batch, all tasks together, or kept components.
        component_weight: Weight of each component.
        box: Strength of the whole term.
    """

    space: Literal["code", "metric"] = "code"
    granularity: Literal["components", "split_z", "scalars", "whole_box"] = "components"
    min_score: float = Field(0.0, ge=0, lt=1)
    loss: Literal["l1", "smooth_l1"] = "l1"
    beta: float = Field(1 / 9, gt=0)
    normaliser: Literal["objects", "kept"] = "objects"
    component_weight: ComponentWeights = ComponentWeights()
    box: TermConfig = TermConfig(weight=0.25, share=0.15)

    @property
    def terms(self) -> AbstractSet[str]:
        """The box, where a component counts."""
        return super().terms if any(dict(self.component_weight).values()) else set()


class Xgd(Method):
    """Distil, component by component, what of the teacher's box points the right way."""

    config_type: ClassVar[type[MethodConfig]] = XgdConfig
    config: XgdConfig

    @classmethod
    def needs(
        cls,
        config: MethodConfig,  # noqa: ARG003
        anchors: AnchorConfig | None,  # noqa: ARG003
    ) -> frozenset[Need]:
        """The teacher's box for every ground-truth box."""
        return frozenset({Need(Target.BOXES, Places.BOXES)})

    def forward(
        self, student: StudentMaps, targets: TeacherTargets, boxes: BoxBatch
    ) -> MethodResult:
        """See :class:`Method`."""
        assert targets.boxes is not None, "the loader gives boxes to a method that needs them"
        assert targets.scores is not None, "and their scores"
        assert targets.answered is not None, "and whether the teacher has one"
        grid = self.context.grid
        present = on_grid(boxes, grid)
        chosen = present & targets.answered & (targets.scores >= self.config.min_score)
        cell = grid.cell_index(boxes.values[..., :2])
        codes = (
            codes_at(student.center, boxes.labels, cell)[chosen].float(),
            encode_boxes_at(targets.boxes[chosen], cell[chosen], grid),
            encode_boxes(boxes.values[chosen], grid),
        )
        kept, losses = xgd_components(*codes, self.config, cell_size=grid.cell_size)
        total = torch.stack(
            [getattr(self.config.component_weight, name) * losses[name].sum() for name in losses]
        ).sum()
        if self.config.normaliser == "objects":
            count = present.sum().to(total)
        else:
            count = torch.stack([(kept[name] > 0).float().mean(1).sum() for name in kept]).sum()
        term = self.config.box.weight * total / count.clamp(min=1)
        figures = kept_fractions(kept, boxes.labels[chosen], self.context.classes)
        ways = pilots(codes[0].detach(), *codes[1:], self.config.space, grid.cell_size)
        return MethodResult({"box": term}, figures | mean_angles(*ways))


def xgd_components(
    student: Float[Tensor, "n 10"],
    teacher: Float[Tensor, "n 10"],
    truth: Float[Tensor, "n 10"],
    config: XgdConfig,
    *,
    cell_size: float = 1.0,
) -> tuple[dict[str, Float[Tensor, "n _"]], dict[str, Float[Tensor, " n"]]]:
    """Gate and gated loss of each component.

    Args:
        student: Codes predicted at the ground truth's centre cells; they get the gradient.
        teacher: The teacher's boxes as codes at the same cells.
        truth: The ground truth's codes.
        config: Switches.
        cell_size: Metres a cell, for the metric space.

    Returns:
        Weights in [0, 1], a column for every group of the component, and the summed gated loss of
        each box.
    """
    teacher = teacher.detach()
    to_teacher, to_truth = pilots(student.detach(), teacher, truth, config.space, cell_size)
    groups = GROUPS["components" if config.granularity == "whole_box" else config.granularity]
    kept = {
        name: torch.stack(
            [gate(to_teacher[name][:, part], to_truth[name][:, part], config) for part in parts], 1
        )
        for name, parts in _within_components(groups, to_teacher).items()
    }
    if config.granularity == "whole_box":
        whole = torch.cat(list(kept.values()), 1).amin(1, keepdim=True)
        kept = dict.fromkeys(kept, whole)
    losses = {
        name: torch.stack(
            [
                kept[name][:, k] * _distance(student[:, part], teacher[:, part], config).sum(1)
                for k, part in enumerate(parts)
            ],
            1,
        ).sum(1)
        for name, parts in groups.items()
    }
    return kept, losses


def pilots(
    student: Float[Tensor, "n 10"],
    teacher: Float[Tensor, "n 10"],
    truth: Float[Tensor, "n 10"],
    space: Literal["code", "metric"],
    cell_size: float,
) -> tuple[dict[str, Float[Tensor, "n _"]], dict[str, Float[Tensor, "n _"]]]:
    """Vectors student -> teacher and student -> truth, per component, in the given space.

    In metric space position, size and velocity are metres (a second) and heading is one angle,
    wrapped to half a turn either way.
    """
    if space == "code":
        return (
            {name: (teacher - student)[:, part] for name, part in COMPONENTS.items()},
            {name: (truth - student)[:, part] for name, part in COMPONENTS.items()},
        )
    start, ends = _metric(student, cell_size), [_metric(c, cell_size) for c in (teacher, truth)]
    to_teacher, to_truth = (
        {
            name: wrap_angle(end[name] - start[name])
            if name == "heading"
            else end[name] - start[name]
            for name in COMPONENTS
        }
        for end in ends
    )
    return to_teacher, to_truth


def gate(
    to_teacher: Float[Tensor, "n d"], to_truth: Float[Tensor, "n d"], config: GateConfig
) -> Float[Tensor, " n"]:
    """Weight in [0, 1] of a teacher component, from its pilot and the ground truth's."""
    inner = (to_teacher * to_truth).sum(1)
    error: Tensor = torch.linalg.vector_norm(to_teacher - to_truth, dim=1)
    if config.gate == "none":
        return torch.ones_like(inner)
    if config.gate == "acute":
        # The inner product, never a division: a zero vector gives 0 and is dropped.
        least = 0.0 if config.max_angle == RIGHT_ANGLE else math.cos(math.radians(config.max_angle))
        sizes = torch.stack([to_teacher, to_truth]).square().sum(2).sqrt().prod(0)
        return (inner > least * sizes).to(inner)
    if config.gate == "closer":
        return (error.square() < to_truth.square().sum(1)).to(inner)
    if config.gate == "static":
        return (error < config.tolerance).to(inner)
    cosine = F.cosine_similarity(to_teacher, to_truth, dim=1).clamp(min=0)
    return cosine if config.gate == "cosine" else cosine.square()


def mean_angles(
    to_teacher: Mapping[str, Float[Tensor, "n _"]], to_truth: Mapping[str, Float[Tensor, "n _"]]
) -> dict[str, Float[Tensor, ""]]:
    """Mean angle between the pilots of each component, degrees; a zero pilot makes a right one."""
    return {
        f"angle/{name}": F.cosine_similarity(to_teacher[name], to_truth[name], dim=1)
        .clamp(-1, 1)
        .acos()
        .rad2deg()
        .mean()
        for name in to_teacher
        if len(to_teacher[name])
    }


def kept_fractions(
    kept: Mapping[str, Float[Tensor, "n _"]], labels: Tensor, classes: Sequence[str]
) -> dict[str, Float[Tensor, ""]]:
    """Mean gate weight by component, by component and class, and of boxes kept whole."""
    if not len(labels):
        return {}
    whole = torch.cat(list(kept.values()), 1).amin(1)
    figures = {"kept/whole_box": whole.mean()}
    for name, weight in kept.items():
        figures[f"kept/{name}"] = weight.mean()
        for label in sorted(set(labels.tolist())):
            figures[f"kept/{name}/{classes[label]}"] = weight[labels == label].mean()
    return figures


def _within_components(
    groups: Mapping[str, tuple[slice, ...]], vectors: Mapping[str, Tensor]
) -> dict[str, tuple[slice, ...]]:
    """The groups as slices of their own component's vectors (metric heading has one column)."""
    shifted = {}
    for name, parts in groups.items():
        first = COMPONENTS[name].start
        whole = len(parts) == 1
        shifted[name] = (
            (slice(0, vectors[name].shape[1]),)
            if whole
            else tuple(slice(part.start - first, part.stop - first) for part in parts)
        )
    return shifted


def _distance(student: Tensor, teacher: Tensor, config: XgdConfig) -> Tensor:
    if config.loss == "l1":
        return (student - teacher).abs()
    return F.smooth_l1_loss(student, teacher, reduction="none", beta=config.beta)


def _metric(code: Float[Tensor, "n 10"], cell_size: float) -> dict[str, Float[Tensor, "n _"]]:
    return {
        "position": torch.cat([code[:, OFFSET] * cell_size, code[:, HEIGHT]], 1),
        "size": code[:, LOG_SIZE].exp(),
        "heading": torch.atan2(code[:, 6], code[:, 7])[:, None],
        "velocity": code[:, CODE_VELOCITY],
    }
