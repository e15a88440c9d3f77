"""LIGA-Stereo's feature imitation (Guo et al., ICCV 2021).

Its code, commit aee3731: the 3D volume and the BEV map before the head follow the
teacher's, inside objects. A student passes a 1x1 convolution; a teacher's channel is divided by a
running mean of its size. The volume's heights lie in channels here, so its adapter is a linear map
on each height, and heights are averaged as the places they are.

Axes: B batch, K cells (padded), C channels, Z heights.
"""

from collections.abc import Set as AbstractSet
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from frames.anchors import AnchorConfig
from frames.boxes import BoxBatch
from nets.anchor_loss import LEAST_COUNT
from runs.errors import ConfigError
from store.schema import Need, Places, Target
from student_train.methods.at_anchors import (
    around_objects,
    cells_of,
    inside_objects,
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

Level = Literal[Target.BEV_LOW, Target.BEV_HIGH]
TERM_OF: dict[Level, str] = {Target.BEV_LOW: "volume", Target.BEV_HIGH: "bev"}


class LigaImitationConfig(MethodConfig):
    """What is imitated; defaults are LIGA-Stereo's.

    Attributes:
        levels: The volume (``bev_low``), the map before the head (``bev_high``), or both.
        mask: Whether only cells inside objects count; ``none`` reads whole maps.
        heights: Of the volume.
        momentum: How much of a channel's running mean is kept at a step.
        volume: Strength of the volume's term.
        bev: Strength of the map's term.
    """

    levels: tuple[Level, ...] = Field((Target.BEV_LOW, Target.BEV_HIGH), min_length=1)
    mask: Literal["footprint", "none"] = "footprint"
    heights: PositiveInt = 5
    momentum: float = Field(0.99, ge=0, lt=1)
    volume: TermConfig = TermConfig()
    bev: TermConfig = TermConfig()

    @property
    def terms(self) -> AbstractSet[str]:
        """Those of its levels."""
        return super().terms & {TERM_OF[level] for level in self.levels}

    @property
    def counting(self) -> tuple[Level, ...]:
        """Levels whose term counts."""
        return tuple(level for level in self.levels if TERM_OF[level] in self.terms)


class Liga(Method):
    """Imitate features inside objects."""

    config_type: ClassVar[type[MethodConfig]] = LigaImitationConfig
    config: LigaImitationConfig

    def __init__(self, config: LigaImitationConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        self.levels = nn.ModuleDict(
            {
                level: LevelImitation(
                    context.student_channels[level],
                    context.teacher_channels[level],
                    config.heights if level is Target.BEV_LOW else 1,
                    config.momentum,
                )
                for level in config.counting
            }
        )

    @classmethod
    def needs(cls, config: MethodConfig, anchors: AnchorConfig | None) -> frozenset[Need]:
        """The maps, around objects or whole."""
        assert isinstance(config, LigaImitationConfig), f"got {type(config).__name__}"
        if config.mask == "none":
            return frozenset(Need(level, Places.MAP) for level in config.counting)
        mask = around_objects(anchors)
        return frozenset(Need(level, Places.CELLS, mask=mask) for level in config.counting)

    def forward(
        self, student: StudentMaps, targets: TeacherTargets, boxes: BoxBatch
    ) -> MethodResult:
        """See :class:`Method`."""
        terms: dict[str, Tensor] = {}
        for level in self.config.counting:
            ours, theirs, counts = self._read(level, student, targets, boxes)
            name = TERM_OF[level]
            weight = getattr(self.config, name).weight
            terms[name] = weight * self.levels[level](ours, theirs, counts)
        return MethodResult(terms)

    def _read(
        self, level: Level, student: StudentMaps, targets: TeacherTargets, boxes: BoxBatch
    ) -> tuple[Float[Tensor, "b k cs"], Float[Tensor, "b k ct"], Bool[Tensor, "b k"]]:
        """Both maps at the cells, and which of these count."""
        ours = student.features[level].flatten(2).mT
        if self.config.mask == "none":
            theirs = targets.maps[level].flatten(2).mT
            return ours, theirs, torch.ones(theirs.shape[:2], dtype=torch.bool, device=ours.device)
        anchors = student_anchors(self.context)
        cell, valid = cells_of(targets, anchors.grid)
        frame = torch.arange(len(cell), device=cell.device)[:, None]
        # Whether an anchor's centre is inside decides, which is not quite the cell's.
        centres = anchors.centres(cell)
        return ours[frame, cell], targets.at_cells[level], valid & inside_objects(centres, boxes)


class LevelImitation(nn.Module):
    """The loss on one map.

    Args:
        student_channels: Heights included.
        teacher_channels: Likewise.
        heights: That lie in the channels.
        momentum: Of the running mean.
    """

    mean_size: Tensor

    def __init__(
        self, student_channels: int, teacher_channels: int, heights: int, momentum: float
    ) -> None:
        super().__init__()
        for name, channels in (("student", student_channels), ("teacher", teacher_channels)):
            if channels % heights:
                raise ConfigError(
                    f"liga.heights is {heights}, but the {name}'s volume has {channels} channels, "
                    "which is no multiple of it"
                )
        self.heights, self.momentum = heights, momentum
        # On sampled vectors a linear layer is the 1x1 convolution.
        self.adapter = nn.Linear(student_channels // heights, teacher_channels // heights)
        self.register_buffer("mean_size", torch.ones(teacher_channels // heights))

    def forward(
        self,
        student: Float[Tensor, "b k cs"],
        teacher: Float[Tensor, "b k ct"],
        counts: Bool[Tensor, "b k"],
    ) -> Float[Tensor, ""]:
        """Half the squared difference, mean over channels, where the teacher has something."""
        frames = len(student)
        ours, theirs = self._by_height(student[counts]), self._by_height(teacher[counts].detach())
        filled = (theirs != 0).any(-1)
        ours, theirs = ours[filled], theirs[filled]
        # Few vectors do not move the running mean.
        if self.training and len(theirs) > LEAST_COUNT:
            self.mean_size.lerp_(theirs.abs().mean(0), 1 - self.momentum)
        # A channel that has been silent all along says nothing, not infinitely much.
        gap = self.adapter(ours) - theirs / self.mean_size.clamp(min=1e-4)
        loss: Tensor = 0.5 * gap.square().mean(1).sum() / max(len(theirs), LEAST_COUNT * frames)
        return loss

    def _by_height(self, merged: Float[Tensor, "n cz"]) -> Float[Tensor, "n z c"]:
        return merged.float().view(len(merged), merged.shape[1] // self.heights, self.heights).mT
