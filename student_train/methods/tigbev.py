"""TiG-BEV's inner-feature distillation: how a box's points relate, and how its channels do.

Huang et al., arXiv 2212.13979; code ADLab3Ds/TiG-BEV (``mmdet3d/models/detectors/tig_bev.py``,
weights of ``configs/tig_bev/tig_bev-r50.py``). Two similarity matrices of the features at a box's
keypoints, each row scaled to unit length, follow the teacher's:

- inter-keypoint: keypoints x keypoints, so that the student may have channels of its own;
- inter-channel: channels x channels, after a linear layer to the teacher's channels.

Here the keypoints are the nine that caches hold of a box (3 x 3), there 24 x 24 in a box that is
1.6 m larger. Its inner-depth supervision reads LiDAR and no teacher; it is not here.

Axes: B batch, M boxes (padded), C channels.
"""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from frames.anchors import AnchorConfig
from frames.boxes import BoxBatch
from frames.heatmap import on_grid
from nets.box_features import at_box_points
from store.schema import Need, Places, Target
from student_train.methods.adapters import row_adapter
from student_train.methods.base import (
    Method,
    MethodConfig,
    MethodContext,
    MethodResult,
    StudentMaps,
    TeacherTargets,
    TermConfig,
)

# Square of the length below which a row has no direction.
LEAST_SQUARE = 1e-24


class TigBevConfig(MethodConfig):
    """Weights, as released.

    Attributes:
        keypoint: Strength of the inter-keypoint term.
        channel: Of the inter-channel term.
        projector: Adapter of the student's features, in the inter-channel term alone: always linear
            (code), only where there are other channels, or two layers.
    """

    keypoint: TermConfig = TermConfig(weight=100.0)
    channel: TermConfig = TermConfig(weight=10.0)
    projector: Literal["linear", "where_needed", "mlp"] = "linear"


class TigBev(Method):
    """Inter-keypoint and inter-channel distillation."""

    config_type: ClassVar[type[MethodConfig]] = TigBevConfig
    config: TigBevConfig

    def __init__(self, config: TigBevConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        channels = (
            c[Target.BEV_HIGH] for c in (context.student_channels, context.teacher_channels)
        )
        self.project = row_adapter(config.projector, *channels)

    @classmethod
    def needs(
        cls,
        config: MethodConfig,  # noqa: ARG003
        anchors: AnchorConfig | None,  # noqa: ARG003
    ) -> frozenset[Need]:
        """The high-level map at the points of each box."""
        return frozenset({Need(Target.BEV_HIGH, Places.POINTS)})

    def forward(
        self, student: StudentMaps, targets: TeacherTargets, boxes: BoxBatch
    ) -> MethodResult:
        """See :class:`Method`."""
        grid, high = self.context.grid, student.features[Target.BEV_HIGH]
        # Products of features: half precision would round them.
        with torch.autocast(high.device.type, enabled=False):
            own = at_box_points(high, boxes.values, grid)
            theirs, counts = (
                targets.at_points[Target.BEV_HIGH].detach().float(),
                on_grid(boxes, grid),
            )
            keypoint = keypoint_loss(own, theirs, counts)
            channel = channel_loss(self.project(own), theirs, counts)
        return MethodResult(
            {
                "keypoint": self.config.keypoint.weight * keypoint,
                "channel": self.config.channel.weight * channel,
            }
        )


def keypoint_loss(
    student: Float[Tensor, "b m 9 c"],
    teacher: Float[Tensor, "b m 9 _"],
    counts: Bool[Tensor, "b m"],
) -> Float[Tensor, ""]:
    """Squared distance of the points' similarities, mean over points and the batch's boxes.

    Args:
        student: Features at the nine points of each box.
        teacher: The teacher's, no gradient.
        counts: Boxes that count.
    """
    own, other = (F.normalize(x @ x.mT, dim=-1) for x in (student, teacher.detach()))
    return _per_box((own - other).square().sum(-1).mean(-1), counts)


def channel_loss(
    student: Float[Tensor, "b m 9 c"],
    teacher: Float[Tensor, "b m 9 c"],
    counts: Bool[Tensor, "b m"],
) -> Float[Tensor, ""]:
    """The same of the channels' similarities, which are never written out.

    Row i of a C x C matrix is the sum over points p of x_pi x_p. So the product of two rows is that
    of their 9 numbers x_pi with the 9 x 9 products of points between.

    Args:
        student: Features at the nine points of each box, in the teacher's channels.
        teacher: The teacher's, no gradient.
        counts: Boxes that count.
    """
    teacher = teacher.detach()
    own, other, both = (
        ((x @ y.mT) @ y * x).sum(-2)
        for x, y in ((student, student), (teacher, teacher), (student, teacher))
    )
    scale_own, scale_other = (x.clamp(min=LEAST_SQUARE).rsqrt() for x in (own, other))
    squares = own * scale_own.square() + other * scale_other.square()
    gap = squares - 2 * both * scale_own * scale_other
    return _per_box(gap.mean(-1), counts)


def _per_box(values: Float[Tensor, "b m"], counts: Bool[Tensor, "b m"]) -> Float[Tensor, ""]:
    return torch.where(counts, values, 0.0).sum() / counts.sum().clamp(min=1)
