"""The interface every distillation method implements.

Axes: B batch, M boxes (padded), K foreground cells (padded), C channels, H rows, W columns.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from frames.boxes import BoxBatch
from frames.grid import BEVGrid
from nets.center_head import CenterMaps
from store.schema import Need, Target


class TermConfig(BaseModel):
    """How strongly one loss term pulls.

    Attributes:
        weight: Factor on the term; without effect where ``share`` is given.
        share: Wanted ratio of the term's gradient norm to the detection loss's, both on the
            student's low-level BEV map; the trainer measures it and scales the term. None leaves
            the weight as it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: float = Field(1.0, ge=0)
    share: float | None = Field(None, gt=0)


class MethodConfig(BaseModel):
    """What every method's config has.

    Attributes:
        start: Share of the run's steps before the method's terms count (the trainer reads it).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: float = Field(0.0, ge=0, le=1)

    @property
    def shares(self) -> dict[str, float]:
        """Wanted gradient share by term, of the terms that have one."""
        terms = {name: getattr(self, name) for name in type(self).model_fields}
        return {
            name: term.share
            for name, term in terms.items()
            if isinstance(term, TermConfig) and term.share is not None
        }


@dataclass(frozen=True, slots=True)
class MethodContext:
    """What a method must know to build its adapters.

    Attributes:
        grid: Grid of all BEV maps.
        student_channels: Channels of the student's BEV maps.
        teacher_channels: Channels of the cached BEV maps.
    """

    grid: BEVGrid
    student_channels: Mapping[Target, int]
    teacher_channels: Mapping[Target, int]


@dataclass(frozen=True, slots=True)
class StudentMaps:
    """What a student computes for a batch.

    Attributes:
        features: BEV maps before (``BEV_LOW``) and after (``BEV_HIGH``) the BEV backbone.
        head: Heatmap logits and box codes.
    """

    features: Mapping[Target, Float[Tensor, "b _ h w"]]
    head: CenterMaps


@dataclass(frozen=True, slots=True)
class TeacherTargets:
    """What the cache holds for a batch, carried into the student's augmented frame.

    Attributes:
        boxes: The teacher's box for each ground-truth box, same order and padding as those.
        scores: The teacher's score for the box's class, 0 where it has none.
        answered: False on padding and where the teacher has no box (centre off its grid).
        cells: Centres (x, y) of the teacher's foreground cells, metres; they are points, so they
            need not be cell centres of the augmented frame.
        cell_weight: Ground truth's heatmap (largest class) there; 0 on padding and off the grid.
        at_cells: The teacher's features and heatmap logits at the cells, by target.
        at_points: Its features at the nine points of each box (``frames/box_points.py``).
        relation: Cosines between its high-level features at these (``nets/box_features.py``).
    """

    boxes: Float[Tensor, "b m 9"] | None = None
    scores: Float[Tensor, "b m"] | None = None
    answered: Bool[Tensor, "b m"] | None = None
    cells: Float[Tensor, "b k 2"] | None = None
    cell_weight: Float[Tensor, "b k"] | None = None
    at_cells: Mapping[Target, Float[Tensor, "b k _"]] = field(default_factory=dict)
    at_points: Mapping[Target, Float[Tensor, "b m 9 _"]] = field(default_factory=dict)
    relation: Float[Tensor, "b m 45"] | None = None

    def to(self, device: torch.device) -> "TeacherTargets":
        """The same targets on another device."""

        def move(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(device, non_blocking=True)

        return TeacherTargets(
            boxes=move(self.boxes),
            scores=move(self.scores),
            answered=move(self.answered),
            cells=move(self.cells),
            cell_weight=move(self.cell_weight),
            at_cells={name: value.to(device) for name, value in self.at_cells.items()},
            at_points={name: value.to(device) for name, value in self.at_points.items()},
            relation=move(self.relation),
        )


LossTerms = dict[str, Float[Tensor, ""]]


@dataclass(frozen=True, slots=True)
class MethodResult:
    """Weighted loss terms, each a scalar, and figures worth a column in the log."""

    terms: LossTerms
    figures: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict)


class Method(nn.Module, ABC):
    """A loss on student maps and cached teacher targets, with its own adapters as sub-modules.

    A method never sees the teacher network, the data set, the device or the step.
    """

    config_type: ClassVar[type[MethodConfig]]

    def __init__(self, config: MethodConfig, context: MethodContext) -> None:
        super().__init__()
        self.config = config
        self.context = context

    @classmethod
    @abstractmethod
    def needs(cls, config: MethodConfig) -> frozenset[Need]:
        """Which teacher targets, at which places, the losses read: exactly these."""

    @abstractmethod
    def forward(
        self, student: StudentMaps, targets: TeacherTargets, boxes: BoxBatch
    ) -> MethodResult:
        """Loss terms of one batch; boxes are the ground truth in the same augmented frame."""
