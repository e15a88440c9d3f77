"""STXD: structural and temporal cross-modal distillation of a LiDAR teacher into a camera student.

Jang et al., NeurIPS 2023; no code was released. The three losses are as the authors' slides
print them; what the slides leave open is a value of the config, whose default is a guess with its
reason in docs/stxd.md. On a centre head there are no queries, so the rows are cells: those of
ground truth's Gaussians and random ones.

- CD: the cross-correlation of the channels of teacher and student over the rows is drawn to the
  identity, so that channels neither collapse nor repeat each other.
- TD: how the rows relate to the teacher's rows of past frames, as the teacher's own rows do. Of
  past frames only what the cache holds is read; the student's past features have no part in it.
- RD: the teacher's detections, weighed by how good they are (``stxd_response.py``).

Axes: B batch, K rows of a frame (padded), P rows of a past frame (padded), N rows of all frames, D
channels.
"""

from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NegativeInt,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    field_validator,
    model_validator,
)
from torch import Tensor, nn

from frames.anchors import AnchorConfig
from frames.boxes import BoxBatch
from frames.cell_masks import CellMask, RandomMask
from frames.heatmap import CENTER_HEAD
from nets.read_at import read_at
from store.schema import Need, Places, Target
from student_train.methods.adapters import row_adapter
from student_train.methods.base import (
    DetectionTargets,
    Method,
    MethodConfig,
    MethodContext,
    MethodResult,
    StudentMaps,
    TeacherTargets,
    TermConfig,
)
from student_train.methods.stxd_response import ResponseForm, centre_answers, response_loss

# Below it a column has no direction.
LEAST_NORM = 1e-12
# Of a channel's length, what float32 may leave of it when its mean is subtracted.
ROUNDING = 1e-6
# A score that no softmax sees, and with which no difference is infinite.
NOWHERE = -1e9


class _Form(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CorrelationForm(_Form):
    """What the slides leave open of CD.

    Attributes:
        hat: What makes F and G comparable: columns centred over the rows and of unit length
            (Barlow Twins' code); of unit length alone (its printed formula); rows of unit length
            first, then as in the first.
        off_diagonal: Weight of the squares off the diagonal; Barlow Twins' default.
        over: Rows of the whole batch at once, or of each frame by itself, then the mean.
    """

    hat: Literal["centred", "scaled", "rows_first"] = "centred"
    off_diagonal: NonNegativeFloat = 0.0051
    over: Literal["batch", "frame"] = "batch"


class TemporalForm(_Form):
    """What the slides leave open of TD.

    Attributes:
        scores: Rows of unit length, or as they are.
        temperature: Of the softmax.
        softmax: Over the rows of the past frame, or over all pairs at once.
        divergence: As printed, of the student's from the teacher's; or the other way round.
        rows: Mean or sum over the rows of a frame; without effect on one softmax over all pairs.
        steps: Sum or mean over the past frames.
        scene_start: Where a scene begins later than an offset asks for: its first frame stands for
            the missing one, as published students reuse it; or the step does not count, and means
            over frames and steps are of those that there are.
    """

    scores: Literal["cosine", "dot"] = "cosine"
    temperature: PositiveFloat = 0.1
    softmax: Literal["row", "all"] = "row"
    divergence: Literal["student_teacher", "teacher_student"] = "student_teacher"
    rows: Literal["mean", "sum"] = "mean"
    steps: Literal["sum", "mean"] = "sum"
    scene_start: Literal["reuse", "mask"] = "reuse"


class StxdConfig(MethodConfig):
    """What is read, the open points, and weights.

    Attributes:
        teacher_map: F; of a CenterPoint the neck's map or the backbone's first stage.
        student_map: G.
        objects: Rows at ground truth: the cells of its Gaussians, its centre cells, or none.
        random_cells: Rows beside these, the same of a frame at any time. With 512 there are twice
            as many rows as 512 channels in a batch of two frames or more, not in every frame.
        projector: Adapter of the student's rows to the teacher's channels: linear where there are
            others, always linear, or two layers.
        past: Which key frames' rows TD relates to, counted from the frame; of BEVFormer's queue.
        correlation: CD.
        temporal: TD.
        response: RD.
        cd: Strength of CD. The paper's weights are unknown: a share of the detection loss's
            gradient, this project's choice.
        td: Strength of TD.
        rd: Strength of RD.
    """

    teacher_map: Literal[Target.BEV_HIGH, Target.BEV_LOW, Target.STAGE_0] = Target.BEV_HIGH
    student_map: Literal[Target.BEV_HIGH, Target.BEV_LOW] = Target.BEV_HIGH
    objects: Literal["gaussian", "centres", "none"] = "gaussian"
    random_cells: NonNegativeInt = 512
    projector: Literal["where_needed", "linear", "mlp"] = "where_needed"
    past: tuple[NegativeInt, ...] = Field((-1, -2, -3), min_length=1)
    correlation: CorrelationForm = CorrelationForm()
    temporal: TemporalForm = TemporalForm()
    response: ResponseForm = ResponseForm()
    cd: TermConfig = TermConfig(share=0.2)
    td: TermConfig = TermConfig(share=0.2)
    rd: TermConfig = TermConfig(share=0.2)

    @field_validator("past")
    @classmethod
    def _each_once(cls, past: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(past)) < len(past):
            raise ValueError(f"past = {list(past)} names a frame twice")
        return past

    @model_validator(mode="after")
    def _has_rows(self) -> "StxdConfig":
        if self.objects == "none" and not self.random_cells:
            raise ValueError('objects = "none" and random_cells = 0 leave no rows: set one of them')
        return self

    @property
    def masks(self) -> tuple[CellMask, ...]:
        """Whose cells are rows."""
        objects = [] if self.objects == "none" else [CENTER_HEAD]
        return (*objects, *([RandomMask(count=self.random_cells)] if self.random_cells else []))


class Stxd(Method):
    """Cross-correlation, temporal relations and response."""

    config_type: ClassVar[type[MethodConfig]] = StxdConfig
    config: StxdConfig

    def __init__(self, config: StxdConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        self.response = config.response.for_student(context.code_weights)
        self.project: nn.Module = nn.Identity()
        if {"cd", "td"} & config.terms:
            self.project = row_adapter(
                config.projector,
                context.student_channels[config.student_map],
                context.teacher_channels[config.teacher_map],
            )

    @classmethod
    def needs(
        cls,
        config: MethodConfig,
        anchors: AnchorConfig | None,  # noqa: ARG003
    ) -> frozenset[Need]:
        """The teacher's map at the rows, of this frame and of past ones, and what RD pairs."""
        assert isinstance(config, StxdConfig), f"got {type(config).__name__}"
        offsets: Iterable[int] = (0,) if {"cd", "td"} & config.terms else ()
        past: Iterable[int] = config.past if "td" in config.terms else ()
        rows = frozenset(
            Need(config.teacher_map, Places.CELLS, mask=mask, offset=offset)
            for offset in (*offsets, *past)
            for mask in config.masks
        )
        return rows | (config.response.needs if "rd" in config.terms else frozenset())

    def forward(
        self, student: StudentMaps, targets: TeacherTargets, boxes: BoxBatch
    ) -> MethodResult:
        """See :class:`Method`."""
        config, terms, figures = self.config, {}, {}
        # Products of many rows: half precision would round them.
        with torch.autocast(boxes.values.device.type, enabled=False):
            if {"cd", "td"} & config.terms:
                rows = self._rows(targets)
                own, theirs = self._own(student, targets), self._theirs(targets)
                figures["rows"] = rows.sum(1).float().mean()
                figures["dimension"] = effective_dimension(own[rows])
                figures["teacher_dimension"] = effective_dimension(theirs[rows])
            if "cd" in config.terms:
                terms["cd"] = self._correlation(own, theirs, rows)
            if "td" in config.terms:
                terms["td"], figures["reached"] = self._temporal(own, theirs, rows, targets)
            if "rd" in config.terms:
                grid, found = self.context.grid, self._found(targets, boxes)
                terms["rd"], figures["quality"] = response_loss(
                    student.center, found, boxes, grid, self.response
                )
        weighted = {name: getattr(config, name).weight * term for name, term in terms.items()}
        return MethodResult(weighted, figures)

    def _rows(self, targets: TeacherTargets) -> Bool[Tensor, "b k"]:
        """Which of the cells are rows."""
        weights = {mask: targets.cell_weight[mask] for mask in self.config.masks}
        if self.config.objects == "centres":
            weights[CENTER_HEAD] = (weights[CENTER_HEAD] == 1).float()
        return torch.stack(list(weights.values())).amax(0) > 0

    def _own(self, student: StudentMaps, targets: TeacherTargets) -> Float[Tensor, "b k d"]:
        assert targets.cells is not None, "the loader gives cells to a method that needs them"
        points = self.context.grid.to_unit(targets.cells)
        adapted: Tensor = self.project(read_at(student.features[self.config.student_map], points))
        return adapted

    def _theirs(self, targets: TeacherTargets) -> Float[Tensor, "b k d"]:
        return targets.at_cells[self.config.teacher_map].detach().float()

    def _found(self, targets: TeacherTargets, boxes: BoxBatch) -> DetectionTargets:
        if self.response.pairs == "same_cell":
            return centre_answers(targets, boxes, self.context.grid)
        assert targets.detections is not None, "the loader gives them to a need for them"
        return targets.detections

    def _correlation(
        self,
        own: Float[Tensor, "b k d"],
        theirs: Float[Tensor, "b k d"],
        rows: Bool[Tensor, "b k"],
    ) -> Float[Tensor, ""]:
        form = self.config.correlation
        if form.over == "batch":
            return correlation_loss(own[rows], theirs[rows], form)
        each = zip(own, theirs, rows, strict=True)
        return torch.stack([correlation_loss(s[at], t[at], form) for s, t, at in each]).mean()

    def _temporal(
        self,
        own: Float[Tensor, "b k d"],
        theirs: Float[Tensor, "b k d"],
        rows: Bool[Tensor, "b k"],
        targets: TeacherTargets,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """TD, and the share of past frames that lie in their scene."""
        form, steps, reached = self.config.temporal, [], []
        for past in (targets.past[offset] for offset in self.config.past):
            assert past.reached is not None, "the loader says it of past rows"
            step = temporal_loss((own, theirs, self._theirs(past)), (rows, self._rows(past)), form)
            if form.scene_start == "mask":
                step = torch.where(past.reached, step, 0.0).sum() / past.reached.sum().clamp(min=1)
            steps.append(step.mean())
            reached.append(past.reached.float().mean())
        total, there = torch.stack(steps).sum(), torch.stack(reached)
        if form.steps == "mean":
            masked = form.scene_start == "mask"
            total = total / ((there > 0).sum().clamp(min=1) if masked else len(steps))
        return total, there.mean()


def correlation_loss(
    student: Float[Tensor, "n d"], teacher: Float[Tensor, "n d"], form: CorrelationForm
) -> Float[Tensor, ""]:
    """CD: squared distance of the channels' cross-correlation from the identity.

    Args:
        student: Rows of the student.
        teacher: The teacher's, no gradient. Fewer rows than channels make C rank-deficient.
        form: What the slides leave open.

    Returns:
        Sum over i of (1 - C_ii)^2 and, weighted, of C_ij^2 off the diagonal; 0 without rows.
    """
    if not len(student):
        return student.sum()
    cross = _hat(teacher.detach().to(student), form).T @ _hat(student, form)
    squares = cross.square()
    on_diagonal = squares.diagonal().sum()
    gap = (1 - cross.diagonal()).square().sum()
    return gap + form.off_diagonal * (squares.sum() - on_diagonal)


def _hat(rows: Float[Tensor, "n d"], form: CorrelationForm) -> Float[Tensor, "n d"]:
    if form.hat == "rows_first":
        rows = _unit(rows, dim=1)
    if form.hat != "scaled":
        # Of a channel that is the same everywhere rounding alone is left, which is no direction.
        least = ROUNDING * torch.linalg.vector_norm(rows, dim=0)
        rows = rows - rows.mean(0)
        rows = torch.where(torch.linalg.vector_norm(rows, dim=0) > least, rows, 0.0)
    return _unit(rows, dim=0)


def _unit(values: Float[Tensor, "*n"], dim: int) -> Float[Tensor, "*n"]:
    """Vectors along an axis, of unit length; one of zeros stays so and gets no gradient.

    A cell that no ray reaches is such a row: its gradient would be 1 / ``LEAST_NORM``.
    """
    length = torch.linalg.vector_norm(values, dim=dim, keepdim=True)
    unit: Tensor = values / length.clamp(min=LEAST_NORM).masked_fill(length == 0, torch.inf)
    return unit


@torch.no_grad()
def effective_dimension(rows: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Participation ratio of the rows' covariance: (sum of eigenvalues)^2 / sum of their squares.

    From 1, all rows on a line, to the number of channels; 0 where all rows are equal. The slides
    show an effective dimension and do not define it: this is our reading.
    """
    if not len(rows):
        return rows.new_zeros(())
    centred = rows - rows.mean(0)
    covariance = centred.T @ centred / len(rows)
    squares = covariance.square().sum()
    return covariance.trace().square() / squares.clamp(min=torch.finfo(squares.dtype).tiny)


def temporal_loss(
    features: tuple[Float[Tensor, "b k d"], Float[Tensor, "b k d"], Float[Tensor, "b p d"]],
    rows: tuple[Bool[Tensor, "b k"], Bool[Tensor, "b p"]],
    form: TemporalForm,
) -> Float[Tensor, " b"]:
    """TD against one past frame: how differently two sets of rows relate to the teacher's past.

    Args:
        features: The student's rows; the teacher's; its rows of the past frame, at places of their
            own. No gradient but for the first.
        rows: Which of the rows count, of this frame and of the past one.
        form: What the slides leave open.

    Returns:
        KL divergence of each frame; 0 without rows.
    """
    (student, teacher, past), (now, then) = features, rows
    pairs = now[:, :, None] & then[:, None]
    own = _log_relation(student, past.detach(), pairs, form)
    theirs = _log_relation(teacher.detach(), past.detach(), pairs, form)
    if form.divergence == "teacher_student":
        own, theirs = theirs, own
    each = torch.where(pairs, own.exp() * (own - theirs), 0.0).sum(-1)
    if form.softmax == "all" or form.rows == "sum":
        return each.sum(1)
    return each.sum(1) / now.sum(1).clamp(min=1)


def _log_relation(
    rows: Float[Tensor, "b k d"],
    past: Float[Tensor, "b p d"],
    pairs: Bool[Tensor, "b k p"],
    form: TemporalForm,
) -> Float[Tensor, "b k p"]:
    """Log of the softmax of the scores; what is no pair takes no part."""
    if form.scores == "cosine":
        rows, past = (_unit(x, dim=-1) for x in (rows, past))
    scores = (rows @ past.mT / form.temperature).masked_fill(~pairs, NOWHERE)
    if form.softmax == "row":
        return scores.log_softmax(-1)
    return scores.flatten(1).log_softmax(-1).view_as(scores)
