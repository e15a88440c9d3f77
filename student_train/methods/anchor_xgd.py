"""StereoDistill's XGD on anchors; with CLD (``cld.py``) it is the method ``stereodistill``.

StereoDistill (Liu et al., AAAI 2023, arXiv 2301.01615); no code was released, and the paper's
equations could not be read: what they leave open is a config value each (docs/methods.md).

XGD splits the box code of each positive anchor into position, size and heading. A component is
distilled where its pilots, student -> teacher and student -> truth, point the same way.

Axes: N positive anchors. Codes: ``frames/anchor_code.py``.
"""

import math
from collections.abc import Set as AbstractSet
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat
from torch import Tensor

from frames.anchor_code import decode_at_anchors, encode_at_anchors
from frames.anchors import AnchorConfig
from frames.boxes import BoxBatch
from frames.geometry import wrap_angle
from frames.rotated_iou import iou_3d
from nets.anchor_loss import LEAST_COUNT
from runs.errors import ConfigError
from store.schema import Need, Places, Target
from student_train.methods.at_anchors import (
    Positives,
    boxes_at_anchors,
    read_positives,
    student_anchors,
    with_boxes_of_objects,
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
from student_train.methods.xgd import GateConfig, gate, kept_fractions, mean_angles

POSITION, SIZE, HEADING = slice(0, 3), slice(3, 6), slice(6, 7)
Parts = dict[str, tuple[slice, ...]]
COMPONENTS = {"position": POSITION, "size": SIZE, "heading": HEADING}
GROUPS: dict[str, Parts] = {
    "components": {name: (part,) for name, part in COMPONENTS.items()},
    "split_z": {
        "position": (slice(0, 2), slice(2, 3)),
        "size": (SIZE,),
        "heading": (HEADING,),
    },
    "scalars": {
        "position": tuple(slice(k, k + 1) for k in range(3)),
        "size": tuple(slice(k, k + 1) for k in range(3, 6)),
        "heading": (HEADING,),
    },
}
# The whole-box threshold that the log compares with: KITTI's overlaps and a usual score.
WHOLE_BOX_IOU, OTHER_WHOLE_BOX_IOU, WHOLE_BOX_SCORE = {"Car": 0.7}, 0.5, 0.3


class BoxWeights(BaseModel):
    """Weight of each component."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    position: float = Field(1.0, ge=0)
    size: float = Field(1.0, ge=0)
    heading: float = Field(1.0, ge=0)


class AnchorXgdConfig(GateConfig):
    """XGD's choices (docs/methods.md).

    Attributes:
        space: Where pilots are compared: the code, or metres and radians.
        granularity: Components as in the paper's figure, height apart, single numbers, or the
            whole box (kept only if every component is).
        match: The teacher's box at the same anchor, or its surest box of the object, at all
            anchors of that object.
        min_score: A teacher box that scores lower for the object's class is not distilled.
        min_iou: Nor is one whose 3D IoU with the object is not above that of its class, in the
            order of labels; None lets all pass.
        loss: Distance between the codes; the heading's is that of the sine of the difference.
        beta: Where smooth L1 turns linear.
        normaliser: Positive anchors, as the supervised loss counts, or kept components.
        component_weight: Weight of each component.
        iou: Weight of 1 - 3D IoU with the teacher's box, at anchors whose components are all kept.
        box: Strength of the whole term; the supervised box loss has the same weight.
    """

    space: Literal["code", "metric"] = "code"
    granularity: Literal["components", "split_z", "scalars", "whole_box"] = "components"
    match: Literal["anchor", "object"] = "anchor"
    min_score: float = Field(0.0, ge=0, lt=1)
    min_iou: tuple[float, ...] | None = None
    loss: Literal["smooth_l1", "l1"] = "smooth_l1"
    beta: PositiveFloat = 1 / 9
    normaliser: Literal["positives", "kept"] = "positives"
    component_weight: BoxWeights = BoxWeights()
    iou: float = Field(0.0, ge=0)
    box: TermConfig = TermConfig(weight=0.5)

    @property
    def terms(self) -> AbstractSet[str]:
        """The box, where a component or the overlap counts."""
        return super().terms if self.iou or any(dict(self.component_weight).values()) else set()


class AnchorXgd(Method):
    """Distil, component by component, what of the teacher's boxes points the right way."""

    config_type: ClassVar[type[MethodConfig]] = AnchorXgdConfig
    config: AnchorXgdConfig
    table: Tensor

    def __init__(self, config: AnchorXgdConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        if config.min_iou is not None and len(config.min_iou) != len(context.classes):
            raise ConfigError(
                f"xgd.min_iou has {len(config.min_iou)} numbers, expected one for each of "
                f"{', '.join(context.classes)}"
            )
        self.register_buffer("table", student_anchors(context).boxes(), persistent=False)

    @classmethod
    def needs(cls, config: MethodConfig, anchors: AnchorConfig | None) -> frozenset[Need]:
        """The teacher's box at every positive anchor, or its surest of every object."""
        assert isinstance(config, AnchorXgdConfig), f"got {type(config).__name__}"
        objects = {Need(Target.BOXES, Places.BOXES)} if config.match == "object" else set()
        return frozenset(objects | {boxes_at_anchors(anchors)})

    def forward(
        self, student: StudentMaps, targets: TeacherTargets, boxes: BoxBatch
    ) -> MethodResult:
        """See :class:`Method`."""
        found = read_positives(student, targets, boxes, self.table)
        if self.config.match == "object":
            found = with_boxes_of_objects(found, targets)
        overlap = iou_3d(found.teacher, found.truth)
        usable = found.score >= self.config.min_score
        if self.config.min_iou is not None:
            usable &= overlap > overlap.new_tensor(self.config.min_iou)[found.label]
        chosen = found.where(usable)
        teacher = encode_at_anchors(chosen.teacher, chosen.anchors)
        truth = encode_at_anchors(chosen.truth, chosen.anchors)
        kept, losses = anchor_xgd(chosen.code, teacher, truth, chosen.anchors, self.config)
        frames, positives = len(boxes.valid), len(usable)
        term = xgd_loss(kept, losses, positives, frames, self.config)
        if self.config.iou:
            missing = iou_to_teacher(kept, chosen).sum() / max(positives, LEAST_COUNT * frames)
            term = term + self.config.box.weight * self.config.iou * missing
        # What was filtered out is not kept.
        everywhere = {
            name: part.new_zeros(positives, part.shape[1]).index_put((usable,), part)
            for name, part in kept.items()
        }
        figures = kept_fractions(everywhere, found.label, self.context.classes)
        figures |= mean_angles(
            *pilots_at_anchors(chosen.code.detach(), teacher, truth, chosen.anchors, self.config)
        )
        if positives:
            least = [WHOLE_BOX_IOU.get(name, OTHER_WHOLE_BOX_IOU) for name in self.context.classes]
            sure = overlap >= overlap.new_tensor(least)[found.label]
            sure &= found.score >= WHOLE_BOX_SCORE
            figures["kept/whole_box_threshold"] = sure.float().mean()
        return MethodResult({"box": term}, figures)


def anchor_xgd(
    student: Float[Tensor, "n 7"],
    teacher: Float[Tensor, "n 7"],
    truth: Float[Tensor, "n 7"],
    anchors: Float[Tensor, "n 7"],
    config: AnchorXgdConfig,
) -> tuple[dict[str, Float[Tensor, "n _"]], dict[str, Float[Tensor, " n"]]]:
    """Gate and gated loss of each component at positive anchors.

    Args:
        student: Codes; they get the gradient.
        teacher: Codes at the same anchors.
        truth: Codes of the objects that the anchors answer for.
        anchors: Their boxes; read in the metric space only.
        config: Switches.

    Returns:
        Weights in [0, 1], a column for every group of the component, and the summed gated loss of
        each anchor.
    """
    teacher = teacher.detach()
    start = student.detach()
    to_teacher, to_truth = (_pilot(start, end, anchors, config) for end in (teacher, truth))
    whole_box = config.granularity == "whole_box"
    groups = GROUPS["components" if whole_box else config.granularity]
    kept = {
        name: torch.stack([gate(to_teacher[:, p], to_truth[:, p], config) for p in parts], 1)
        for name, parts in groups.items()
    }
    if whole_box:
        kept = dict.fromkeys(kept, torch.cat(list(kept.values()), 1).amin(1, keepdim=True))
    distance = _distance(student, teacher, config)
    losses = {
        name: sum(
            (kept[name][:, k] * distance[:, part].sum(1) for k, part in enumerate(parts)),
            start=distance.new_zeros(len(distance)),
        )
        for name, parts in groups.items()
    }
    return kept, losses


def xgd_loss(
    kept: dict[str, Float[Tensor, "n _"]],
    losses: dict[str, Float[Tensor, " n"]],
    positives: int,
    frames: int,
    config: AnchorXgdConfig,
) -> Float[Tensor, ""]:
    """The weighted term of a batch.

    Args:
        kept: Of all positive anchors of the batch, from :func:`anchor_xgd`.
        losses: Likewise.
        positives: Anchors of the batch, those included that were filtered out before.
        frames: Of the batch.
        config: Switches.
    """
    total = torch.stack(
        [getattr(config.component_weight, name) * losses[name].sum() for name in losses]
    ).sum()
    if config.normaliser == "positives":
        count = total.new_tensor(positives / frames)
    else:
        count = torch.stack([(part > 0).float().mean(1).sum() for part in kept.values()]).sum()
        count = count / frames
    return config.box.weight * total / count.clamp(min=LEAST_COUNT) / frames


def iou_to_teacher(kept: dict[str, Float[Tensor, "n _"]], chosen: Positives) -> Float[Tensor, " n"]:
    """1 - 3D IoU of the student's with the teacher's box, where all components are kept."""
    whole = torch.cat(list(kept.values()), 1).amin(1)
    ours = decode_at_anchors(chosen.code, chosen.anchors)
    return (1 - iou_3d(ours, chosen.teacher.detach())) * whole


def pilots_at_anchors(
    student: Float[Tensor, "n 7"],
    teacher: Float[Tensor, "n 7"],
    truth: Float[Tensor, "n 7"],
    anchors: Float[Tensor, "n 7"],
    config: AnchorXgdConfig,
) -> tuple[dict[str, Float[Tensor, "n _"]], dict[str, Float[Tensor, "n _"]]]:
    """Vectors student -> teacher and student -> truth of each component; as in ``anchor_xgd``."""
    ways = [_pilot(student, end, anchors, config) for end in (teacher, truth)]
    to_teacher, to_truth = (
        {name: way[:, part] for name, part in COMPONENTS.items()} for way in ways
    )
    return to_teacher, to_truth


def _pilot(
    start: Float[Tensor, "n 7"],
    end: Float[Tensor, "n 7"],
    anchors: Float[Tensor, "n 7"],
    config: AnchorXgdConfig,
) -> Float[Tensor, "n 7"]:
    if config.space == "metric":
        start, end = decode_at_anchors(start, anchors), decode_at_anchors(end, anchors)
    way = end - start
    # The distance of headings has a minimum every half turn.
    return torch.cat([way[:, :6], wrap_angle(way[:, HEADING], math.pi)], 1)


def _distance(
    student: Float[Tensor, "n 7"], teacher: Float[Tensor, "n 7"], config: AnchorXgdConfig
) -> Float[Tensor, "n 7"]:
    gap = student - teacher
    gap = torch.cat([gap[:, :6], gap[:, HEADING].sin()], 1)
    if config.loss == "l1":
        return gap.abs()
    return F.smooth_l1_loss(gap, torch.zeros_like(gap), reduction="none", beta=config.beta)
