"""UniDistill: one distillation for any pair of sensors, in bird's-eye view.

Zhou et al., CVPR 2023; code megvii-research/CVPR2023-UniDistill. Three losses for every path from
teacher to student: features at nine points of each true box on the map before the BEV backbone
(eq. 3), the cosines between these nine on the map after it (eqs. 4 and 5), and the head's answers
in small Gaussians at box centres (eqs. 6 and 7). The weights are a path's own.

Paper and released code differ, and both forms can be had: the code has no adapters (the paper has
them for camera -> LiDAR), samples at the transposed place (its issue 7), and counts the padding of
a batch as an object at the origin. The code keeps the last row of a frame without boxes as well;
its loader gives no such frame.

Axes: B batch, M boxes (padded), 9 points of a box, K cells (padded), C channels, R regression
channels of all tasks.
"""

from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from frames.anchors import AnchorConfig
from frames.box_points import NUM_CORNERS, box_points
from frames.boxes import BoxBatch
from frames.cell_masks import CellMask, OriginMask
from frames.heatmap import UNIDISTILL
from nets.box_features import PAIR_SHARE, at_box_points, relation
from nets.read_at import read_at
from runs.errors import ConfigError
from store.schema import Need, Places, Target
from student_train.methods.adapters import map_adapter
from student_train.methods.base import (
    Method,
    MethodConfig,
    MethodContext,
    MethodResult,
    StudentMaps,
    TeacherTargets,
    TermConfig,
)

# Added to every denominator, and the student's probabilities kept so far from 0 and 1 (code).
EPSILON = 1e-4
ORIGIN = OriginMask()


def _published(weights: tuple[float, float, float], clamp: float, adapters: str) -> dict[str, Any]:
    terms = zip(("feature", "relation", "response"), weights, strict=True)
    own = {name: TermConfig(weight=weight) for name, weight in terms}
    return own | {"clamp": clamp, "adapters": adapters}


# Of each path: weights (paper and code), the teacher's clamp (code), adapters (paper).
PUBLISHED = {
    "lidar_to_camera": _published((100, 40, 10), 1e-4, "none"),
    "fusion_to_camera": _published((10, 5, 10), 1e-3, "none"),
    "camera_to_lidar": _published((10, 5, 1), 1e-4, "conv3x3"),
    "fusion_to_lidar": _published((10, 1, 10), 1e-4, "none"),
}
_DEFAULT = PUBLISHED["lidar_to_camera"]


class UniDistillConfig(MethodConfig):
    """Whose sensors, and what follows from them unless it is given.

    Attributes:
        path: From the teacher's sensor to the student's; decides the next five.
        feature: Strength of the feature term; a share makes its weight void, as in any method.
        relation: Of the relation term.
        response: Of class and regression response together.
        clamp: How far the teacher's probabilities are kept from 0 and 1.
        adapters: A layer on either BEV map of the student, in the losses alone: ``conv3x3`` with
            normalisation and ReLU (traced in the released code), a plain ``conv1x1``, or none.
        temperature: Of the teacher's class logits; the student's have none (code).
        feature_at: The nine points, or the whole map (the paper's ablation).
        transpose_bug: Sample as the released code does, x as y; reads whole maps.
        pad_artifact: Count the padding of a batch as an object at the origin, in the response
            alone, as the released code does.
    """

    path: Literal["lidar_to_camera", "fusion_to_camera", "camera_to_lidar", "fusion_to_lidar"] = (
        "lidar_to_camera"
    )
    feature: TermConfig = _DEFAULT["feature"]
    relation: TermConfig = _DEFAULT["relation"]
    response: TermConfig = _DEFAULT["response"]
    clamp: float = Field(_DEFAULT["clamp"], gt=0, lt=0.5)
    adapters: Literal["none", "conv1x1", "conv3x3"] = _DEFAULT["adapters"]
    temperature: float = Field(2.0, gt=0)
    feature_at: Literal["points", "map"] = "points"
    transpose_bug: bool = False
    pad_artifact: bool = False

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, values: Any) -> Any:
        """What is not given is the path's."""
        if not isinstance(values, dict):
            return values
        return PUBLISHED.get(str(values.get("path")), {}) | values


class UniDistill(Method):
    """Feature, relation and response distillation."""

    config_type: ClassVar[type[MethodConfig]] = UniDistillConfig
    config: UniDistillConfig

    def __init__(self, config: UniDistillConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        _require_path(config, context)
        self.adapt_low: nn.Module = nn.Identity()
        self.adapt_high: nn.Module = nn.Identity()
        if "feature" in config.terms:
            low, other = (
                c[Target.BEV_LOW] for c in (context.student_channels, context.teacher_channels)
            )
            if config.adapters == "none" and low != other:
                raise ConfigError(
                    f"unidistill compares low-level BEV maps channel by channel; the student's has "
                    f"{low}, the cached teacher's {other}: give both networks the same, or set "
                    'adapters = "conv3x3" in [methods.unidistill]'
                )
            self.adapt_low = _adapter(config.adapters, low, other)
        if "relation" in config.terms:
            # Cosines need no channels in common.
            high = context.student_channels[Target.BEV_HIGH]
            self.adapt_high = _adapter(config.adapters, high, high)
        if "response" in config.terms:
            context.require_same_heads("unidistill compares all regression channels")

    @classmethod
    def needs(
        cls,
        config: MethodConfig,
        anchors: AnchorConfig | None,  # noqa: ARG003
    ) -> frozenset[Need]:
        """Nine points of each box, their relation, and the head in the Gaussians; or whole maps."""
        assert isinstance(config, UniDistillConfig), f"got {type(config).__name__}"
        whole = config.transpose_bug or config.feature_at == "map"
        masks: tuple[CellMask, ...] = (UNIDISTILL, ORIGIN) if config.pad_artifact else (UNIDISTILL,)
        reads = {
            "feature": [Need(Target.BEV_LOW, Places.MAP if whole else Places.POINTS)],
            "relation": [
                Need(Target.BEV_HIGH, Places.MAP)
                if config.transpose_bug
                else Need(Target.RELATION, Places.BOXES)
            ],
            "response": [
                Need(target, Places.CELLS, mask=mask)
                for target in (Target.HEATMAP_LOGIT, Target.BOX_CODE)
                for mask in masks
            ],
        }
        return frozenset(need for term in config.terms for need in reads[term])

    def forward(
        self, student: StudentMaps, targets: TeacherTargets, boxes: BoxBatch
    ) -> MethodResult:
        """See :class:`Method`."""
        terms: dict[str, Tensor] = {}
        figures: dict[str, Tensor] = {}
        for name in self.config.terms:
            if name == "response":
                classes, codes = self._responses(student, targets, boxes)
                loss = classes + codes
                figures = {"response/class": classes.detach(), "response/box": codes.detach()}
            elif name == "relation":
                loss = self._relation(student, targets, boxes)
            else:
                loss = self._feature(student, targets, boxes)
            terms[name] = getattr(self.config, name).weight * loss
        return MethodResult(terms, figures)

    def _feature(
        self, student: StudentMaps, targets: TeacherTargets, boxes: BoxBatch
    ) -> Float[Tensor, ""]:
        low: Tensor = self.adapt_low(student.features[Target.BEV_LOW])
        if self.config.feature_at == "map":
            return (low - targets.maps[Target.BEV_LOW].detach().float()).abs().mean()
        if self.config.transpose_bug:
            teacher = self._at_points(targets.maps[Target.BEV_LOW], boxes)
        else:
            teacher = targets.at_points[Target.BEV_LOW]
        return feature_loss(self._at_points(low, boxes), teacher, self._in_range(boxes))

    def _relation(
        self, student: StudentMaps, targets: TeacherTargets, boxes: BoxBatch
    ) -> Float[Tensor, ""]:
        high = self.adapt_high(student.features[Target.BEV_HIGH])
        if self.config.transpose_bug:
            teacher = relation(self._at_points(targets.maps[Target.BEV_HIGH], boxes))
        else:
            assert targets.relation is not None, "the loader gives it to a method that needs it"
            teacher = targets.relation
        return relation_loss(relation(self._at_points(high, boxes)), teacher, self._in_range(boxes))

    def _responses(
        self, student: StudentMaps, targets: TeacherTargets, boxes: BoxBatch
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Class and regression response."""
        assert targets.cells is not None, "the loader gives cells to a method that needs them"
        weight = targets.cell_weight[UNIDISTILL]
        if self.config.pad_artifact:
            count = self._in_range(boxes).sum(1, keepdim=True)
            weight = torch.maximum(weight, targets.cell_weight[ORIGIN] * (count < count.max()))
        points = self.context.grid.to_unit(targets.cells)
        code = read_at(student.center.box_code.flatten(1, 2), points)
        class_gap = class_loss(
            read_at(student.center.heatmap_logit, points),
            targets.at_cells[Target.HEATMAP_LOGIT],
            weight,
            temperature=self.config.temperature,
            clamp=self.config.clamp,
        )
        return class_gap, regression_loss(code, targets.at_cells[Target.BOX_CODE], weight)

    def _at_points(self, maps: Tensor, boxes: BoxBatch) -> Float[Tensor, "b m 9 c"]:
        grid, transposed = self.context.grid, self.config.transpose_bug
        return at_box_points(maps, boxes.values, grid, transposed=transposed)

    def _in_range(self, boxes: BoxBatch) -> Bool[Tensor, "b m"]:
        """Boxes that count: the released data set drops those without a corner in range."""
        corners = box_points(boxes.values)[..., :NUM_CORNERS, :]
        return boxes.valid & self.context.grid.contains(corners).any(-1)


def feature_loss(
    student: Float[Tensor, "b m 9 c"], teacher: Float[Tensor, "b m 9 c"], valid: Bool[Tensor, "b m"]
) -> Float[Tensor, ""]:
    """Absolute difference, mean over points and channels, per box of the batch (eq. 3).

    Args:
        student: Features at the nine points of each box (``nets/box_features.py``).
        teacher: The teacher's, no gradient.
        valid: False on padding and on what else is no ground truth.
    """
    return _per_box((student - teacher.detach().float()).abs().mean((-2, -1)), valid)


def relation_loss(
    student: Float[Tensor, "b m 45"], teacher: Float[Tensor, "b m 45"], valid: Bool[Tensor, "b m"]
) -> Float[Tensor, ""]:
    """Absolute difference of the 9 x 9 cosines, mean over all 81, per box of the batch (eq. 5).

    Args:
        student: Upper triangle of the matrix of each box (``nets/box_features.py``).
        teacher: The teacher's, no gradient.
        valid: False on padding and on what else is no ground truth.
    """
    gap = (student - teacher.detach().float()).abs()
    return _per_box((gap * PAIR_SHARE.to(gap)).sum(-1), valid)


def class_loss(
    student_logit: Float[Tensor, "b k classes"],
    teacher_logit: Float[Tensor, "b k classes"],
    weight: Float[Tensor, "b k"],
    *,
    temperature: float = 2.0,
    clamp: float = EPSILON,
) -> Float[Tensor, ""]:
    """Absolute difference of the likeliest class's probability, weighted mean over cells (eq. 6).

    Args:
        student_logit: Class logits at the cells.
        teacher_logit: The teacher's, no gradient.
        weight: Of each cell, 0 on padding.
        temperature: Of the teacher alone.
        clamp: How far the teacher's probabilities are kept from 0 and 1.
    """
    student = student_logit.float().amax(-1).sigmoid().clamp(EPSILON, 1 - EPSILON)
    teacher = teacher_logit.detach().float().amax(-1).div(temperature).sigmoid()
    return _weighted_mean((student - teacher.clamp(clamp, 1 - clamp)).abs(), weight)


def regression_loss(
    student: Float[Tensor, "b k r"], teacher: Float[Tensor, "b k r"], weight: Float[Tensor, "b k"]
) -> Float[Tensor, ""]:
    """Absolute difference of all tasks' raw regression channels, weighted mean over cells (eq. 7).

    Args:
        student: Box codes of all tasks at the cells.
        teacher: The teacher's, no gradient.
        weight: Of each cell, 0 on padding.
    """
    return _weighted_mean((student - teacher.detach().float()).abs().mean(-1), weight)


def _per_box(gap: Float[Tensor, "b m"], valid: Bool[Tensor, "b m"]) -> Float[Tensor, ""]:
    return torch.where(valid, gap, 0.0).sum() / (valid.sum() + EPSILON)


def _weighted_mean(gap: Float[Tensor, "b k"], weight: Float[Tensor, "b k"]) -> Float[Tensor, ""]:
    return (weight * gap).sum() / (weight.sum() + EPSILON)


def _require_path(config: UniDistillConfig, context: MethodContext) -> None:
    """Refuse another path than that of the sensors.

    Raises:
        ConfigError: Says what to change.
    """
    path = "_to_".join(context.sensors)
    if path in PUBLISHED and path != config.path:
        raise ConfigError(
            f'unidistill has path = "{config.path}", but the cached teacher and the student are '
            f'those of {path}: set path = "{path}" in [methods.unidistill]; what is given there '
            "beside it wins over that path's weights"
        )


def _adapter(kind: str, channels: int, out_channels: int) -> nn.Module:
    """With a bias: 590,592 parameters at 256 channels, as the release's commented lines have it."""
    return map_adapter(kind, channels, out_channels, bias=True, norm=nn.BatchNorm2d)
