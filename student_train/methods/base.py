"""The interface every distillation method implements.

Axes: B batch, M boxes (padded), K foreground cells (padded), C channels, H rows, W columns.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from frames.anchors import AnchorConfig
from frames.boxes import BoxBatch
from frames.cell_masks import CellMask
from frames.grid import BEVGrid
from nets.anchor_head import AnchorMaps
from nets.center_head import CenterMaps
from nets.center_loss import CenterLossConfig
from runs.errors import ConfigError
from store.schema import Need, Target

Tasks = tuple[frozenset[str], ...]


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

    start: float = Field(0.0, ge=0, lt=1)

    @property
    def strengths(self) -> dict[str, TermConfig]:
        """Of every term, by name."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in values.items() if isinstance(value, TermConfig)}

    @property
    def shares(self) -> dict[str, float]:
        """Wanted gradient share by term, of the terms that have one."""
        strengths = self.strengths.items()
        return {name: term.share for name, term in strengths if term.share is not None}

    @property
    def terms(self) -> AbstractSet[str]:
        """Names of the terms that count, in their order: those with a weight or a share."""
        return {n: term for n, term in self.strengths.items() if term.weight or term.share}.keys()


@dataclass(frozen=True, slots=True)
class MethodContext:
    """What a method must know to build its adapters.

    Attributes:
        grid: Grid of all BEV maps.
        student_channels: Channels of the student's BEV maps, and of all tasks' box codes together.
        teacher_channels: Channels of the cached maps, wherever they are cached.
        classes: Names, in the order of labels.
        anchors: Of the student's head; None for a centre head.
        student_frames: Of how many time steps its ``BEV_LOW`` is the concatenation.
        teacher_sha256: Of the checkpoint that the cache was dumped from.
        sensors: What the teacher sees and what the student sees, as the former says; "" if unknown.
        student_tasks: Classes of each task of its centre head; None: it has none.
        teacher_tasks: The same of the teacher; None: not known.
        code_weights: Of each entry of the box code in the student's detection loss.
    """

    grid: BEVGrid
    classes: tuple[str, ...]
    student_channels: Mapping[Target, int]
    teacher_channels: Mapping[Target, int]
    anchors: AnchorConfig | None = None
    student_frames: int = 1
    teacher_sha256: str = ""
    sensors: tuple[str, str] = ("", "")
    student_tasks: Tasks | None = None
    teacher_tasks: Tasks | None = None
    code_weights: tuple[float, ...] = CenterLossConfig().code

    def require_same_heads(self, why: str, otherwise: str = "") -> None:
        """Refuse centre heads whose box codes, of all tasks together, cannot be compared.

        Args:
            why: What compares them.
            otherwise: What else would help.

        Raises:
            ConfigError: Says what to change.
        """
        own, other = (c[Target.BOX_CODE] for c in (self.student_channels, self.teacher_channels))
        tasks = (self.student_tasks, self.teacher_tasks)
        if own != other or (None not in tasks and tasks[0] != tasks[1]):
            raise ConfigError(
                f"{why}; the student's head has {own} channels, {_listed(tasks[0])}, the cached "
                f"teacher's {other}, {_listed(tasks[1])}: give both heads the same tasks in the "
                "same order, and both or neither an IoU branch"
                + (f", or {otherwise}" if otherwise else "")
            )


def _listed(tasks: Tasks | None) -> str:
    """Tasks for a message, the classes of each joined."""
    names = [" and ".join(sorted(task)) for task in tasks or ()]
    return f"of the tasks {'; '.join(names)}" if names else "of unknown tasks"


@dataclass(frozen=True, slots=True)
class StudentMaps:
    """What a student computes for a batch.

    Attributes:
        features: BEV maps before (``BEV_LOW``) and after (``BEV_HIGH``) the BEV backbone; its
            first stage at half resolution (``STAGE_1``), if it has one; its two branches
            (``BEV_LIDAR``, which may be simulated, and ``BEV_CAMERA``), if they are told apart.
        head: Heatmap logits and box codes, or what the anchor head says.
    """

    features: Mapping[Target, Float[Tensor, "b _ _ _"]]
    head: CenterMaps | AnchorMaps

    @property
    def center(self) -> CenterMaps:
        """The head, where it is a centre head: the registry gives no other to a method for it."""
        assert isinstance(self.head, CenterMaps), f"found {type(self.head).__name__}"
        return self.head

    @property
    def anchors(self) -> AnchorMaps:
        """The head, where it is an anchor head."""
        assert isinstance(self.head, AnchorMaps), f"found {type(self.head).__name__}"
        return self.head


@dataclass(frozen=True, slots=True)
class AnchorTargets:
    """What the cache holds at the positive anchors of a batch, in the student's frame.

    Attributes:
        index: Which anchor; 0 on padding.
        object: Which ground-truth box it answers for.
        box: The teacher's, x y z l w h yaw, metres; the yaw before the direction classifier.
        direction: The half turn in which the teacher's heading lies (``nets/anchor_loss.py``).
        score: The teacher's, for that box's class.
        valid: False on padding.
    """

    index: Int64[Tensor, "b k"]
    object: Int64[Tensor, "b k"]
    box: Float[Tensor, "b k 7"]
    direction: Int64[Tensor, "b k"]
    score: Float[Tensor, "b k"]
    valid: Bool[Tensor, "b k"]

    def to(self, device: torch.device) -> "AnchorTargets":
        """The same targets on another device."""
        return AnchorTargets(*(getattr(self, f.name).to(device) for f in fields(self)))


@dataclass(frozen=True, slots=True)
class DetectionTargets:
    """What the teacher detects in the frames of a batch, in the student's frame; best first.

    Attributes:
        box: x y z l w h yaw vx vy, metres.
        score: By which they are ordered.
        probability: The teacher's, of each class.
        object: Which ground-truth box it overlaps most; -1 for none.
        iou: 3D IoU with that one, 0 for none.
        valid: False on padding.
    """

    box: Float[Tensor, "b n 9"]
    score: Float[Tensor, "b n"]
    probability: Float[Tensor, "b n classes"]
    object: Int64[Tensor, "b n"]
    iou: Float[Tensor, "b n"]
    valid: Bool[Tensor, "b n"]

    def to(self, device: torch.device) -> "DetectionTargets":
        """The same targets on another device."""
        return DetectionTargets(*(getattr(self, f.name).to(device) for f in fields(self)))


@dataclass(frozen=True, slots=True)
class TeacherTargets:
    """What the cache holds for a batch, carried into the student's augmented frame.

    Attributes:
        boxes: The teacher's box for each ground-truth box, same order and padding as those.
        scores: The teacher's score for the box's class, 0 where it has none.
        answered: False on padding and where the teacher has no box (centre off its grid).
        cells: Centres (x, y) of the teacher's foreground cells, metres; they are points, so they
            need not be cell centres of the augmented frame.
        cell_valid: False on padding and off the grid.
        cell_weight: For each Gaussian mask that is read, ground truth's heatmap (largest class)
            there; 1 at the cell of an origin mask and at the cells of a random one. 0 where not
            valid.
        cell_heatmap: The centre head's own heatmap of each class there, if its mask is read.
        at_cells: The teacher's features and heatmap logits at the cells, by target.
        coarse_cells: Centres (x, y) of its foreground cells at half the resolution, metres.
        coarse_weight: Ground truth's heatmap, summed over classes and resized
            (``frames/heatmap.py: halved``), there; 0 on padding and off the grid.
        at_coarse_cells: Its features at these, by target.
        codes: What its head says at each ground-truth box's centre cell (``frames/box_code.py``).
        coded: False on padding and where there is no such cell.
        at_points: Its features at the nine points of each box (``frames/box_points.py``).
        relation: Cosines between its high-level features at these (``nets/box_features.py``).
        anchors: At positive anchors.
        detections: Its detections.
        maps: Whole maps, by target.
        past: What is read of earlier key frames, by offset: the rows as they are stored, each in
            its own frame (``student_train/past_rows.py``).
        reached: Of such past targets: False where the scene begins later and its first frame stands
            for the one that was asked for.
    """

    boxes: Float[Tensor, "b m 9"] | None = None
    scores: Float[Tensor, "b m"] | None = None
    answered: Bool[Tensor, "b m"] | None = None
    cells: Float[Tensor, "b k 2"] | None = None
    cell_valid: Bool[Tensor, "b k"] | None = None
    cell_weight: Mapping[CellMask, Float[Tensor, "b k"]] = field(default_factory=dict)
    cell_heatmap: Float[Tensor, "b k classes"] | None = None
    at_cells: Mapping[Target, Float[Tensor, "b k _"]] = field(default_factory=dict)
    coarse_cells: Float[Tensor, "b q 2"] | None = None
    coarse_weight: Float[Tensor, "b q"] | None = None
    at_coarse_cells: Mapping[Target, Float[Tensor, "b q _"]] = field(default_factory=dict)
    codes: Float[Tensor, "b m _"] | None = None
    coded: Bool[Tensor, "b m"] | None = None
    at_points: Mapping[Target, Float[Tensor, "b m 9 _"]] = field(default_factory=dict)
    relation: Float[Tensor, "b m 45"] | None = None
    anchors: AnchorTargets | None = None
    detections: DetectionTargets | None = None
    maps: Mapping[Target, Float[Tensor, "b _ h w"]] = field(default_factory=dict)
    past: Mapping[int, "TeacherTargets"] = field(default_factory=dict)
    reached: Bool[Tensor, " b"] | None = None

    def to(self, device: torch.device) -> "TeacherTargets":
        """The same targets on another device."""
        return TeacherTargets(
            **{f.name: _moved(getattr(self, f.name), device) for f in fields(self)}
        )


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Mapping):
        return {key: _moved(entry, device) for key, entry in value.items()}
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    return None if value is None else value.to(device)


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
    def needs(cls, config: MethodConfig, anchors: AnchorConfig | None) -> frozenset[Need]:
        """Which teacher targets, at which places, the losses read: exactly these.

        Args:
            config: Of the method.
            anchors: Of the student's head; None for a centre head.
        """

    @classmethod
    def student_maps(cls, config: MethodConfig) -> frozenset[Target]:  # noqa: ARG003
        """Which BEV maps of the student, such as those of its branches, not every student has."""
        return frozenset()

    @abstractmethod
    def forward(
        self, student: StudentMaps, targets: TeacherTargets, boxes: BoxBatch
    ) -> MethodResult:
        """Loss terms of one batch; boxes are the ground truth in the same augmented frame."""
