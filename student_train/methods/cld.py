"""StereoDistill's CLD: which anchor and class is the likeliest at a cell.

With XGD (``anchor_xgd.py``, which names the paper) it is the method ``stereodistill``. CLD
compares, at each cell, which of all its anchors and classes is the most likely one; what the
paper leaves open to us is a config value each (docs/methods.md).

Axes: Q cells, A anchors of a cell, C classes; G groups of K logits, of which one is to win.
"""

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from frames.anchors import AnchorConfig
from frames.boxes import BoxBatch
from nets.anchor_loss import LEAST_COUNT
from store.schema import Need, Places, Target
from student_train.methods.at_anchors import (
    among_top,
    cells_of,
    in_positive_cells,
    inside_objects,
    logits_around_objects,
    logits_at,
    logits_at_positives,
    student_anchors,
)
from student_train.methods.base import (
    Method,
    MethodConfig,
    MethodResult,
    StudentMaps,
    TeacherTargets,
    TermConfig,
)


class CldConfig(MethodConfig):
    """CLD's choices (docs/methods.md).

    Attributes:
        flatten: What competes at a cell: all its logits; the anchors, for each class apart or for
            each anchor's own class alone; the anchors by their likeliest class.
        probability: Softmax of the logits; the same with a logit of 0 for nothing; sigmoids over
            their sum.
        divergence: Kullback-Leibler from the teacher's, or Jensen-Shannon.
        temperature: Divides the logits; the loss is multiplied by its square.
        cells: Those with a positive anchor, those inside objects, the ``top`` ones by the
            teacher's likeliest class, or all; the last two read whole maps.
        top: How many cells of a frame are ``top``.
        certain: Whether a cell counts by the teacher's largest probability there.
        superset: Whether a dump for it keeps the logits around objects too, for the other mask
            that reads places; else those of the chosen cells alone.
        logit: Strength of the term.
    """

    flatten: Literal["all", "per_class", "own_class", "max_class"] = "all"
    probability: Literal["softmax", "softmax_with_nothing", "sigmoid"] = "softmax"
    divergence: Literal["kl", "js"] = "kl"
    temperature: PositiveFloat = 1.0
    cells: Literal["positive", "footprint", "top", "all"] = "positive"
    top: PositiveInt = 100
    certain: bool = False
    superset: bool = True
    logit: TermConfig = TermConfig()


class Cld(Method):
    """Distil which anchor and class is the likeliest at a cell."""

    config_type: ClassVar[type[MethodConfig]] = CldConfig
    config: CldConfig

    @classmethod
    def needs(cls, config: MethodConfig, anchors: AnchorConfig | None) -> frozenset[Need]:
        """The teacher's logits at the cells."""
        assert isinstance(config, CldConfig), f"got {type(config).__name__}"
        if config.cells in ("top", "all"):
            return frozenset({Need(Target.ANCHOR_LOGIT, Places.MAP)})
        positive, around = logits_at_positives(anchors), logits_around_objects(anchors)
        if config.superset:
            return positive | around
        return positive if config.cells == "positive" else around

    def forward(
        self, student: StudentMaps, targets: TeacherTargets, boxes: BoxBatch
    ) -> MethodResult:
        """See :class:`Method`."""
        anchors = student_anchors(self.context)
        theirs, cell, valid = self._logits(targets)
        if self.config.cells == "positive":
            valid = valid & in_positive_cells(cell, targets, anchors)
        elif self.config.cells == "footprint":
            valid = valid & inside_objects(anchors.grid.cell_centres(cell), boxes)
        elif self.config.cells == "top":
            valid = valid & among_top(theirs, self.config.top)
        ours = logits_at(student, cell, anchors)
        term = cld_loss(
            ours[valid], theirs[valid].view(-1, *ours.shape[2:]), len(cell), self.config
        )
        return MethodResult({"logit": term})

    def _logits(
        self, targets: TeacherTargets
    ) -> tuple[Float[Tensor, "b q ac"], Int64[Tensor, "b q"], Bool[Tensor, "b q"]]:
        """The teacher's logits, at which cells, and which of them are no padding."""
        if Target.ANCHOR_LOGIT in targets.maps:
            logit = targets.maps[Target.ANCHOR_LOGIT].flatten(2).mT.float()
            cell = torch.arange(logit.shape[1], device=logit.device).expand(logit.shape[:2])
            return logit, cell, torch.ones_like(cell, dtype=torch.bool)
        cell, valid = cells_of(targets, self.context.grid)
        return targets.at_cells[Target.ANCHOR_LOGIT].float(), cell, valid


def cld_loss(
    student: Float[Tensor, "q a c"],
    teacher: Float[Tensor, "q a c"],
    frames: int,
    config: CldConfig,
) -> Float[Tensor, ""]:
    """The weighted term of a batch.

    Args:
        student: Logits at all foreground cells of the batch; they get the gradient.
        teacher: Logits at the same cells.
        frames: Of the batch; the cells are averaged over them, as positives are.
        config: Switches.
    """
    per_cell = cld_per_cell(student, teacher.detach(), config)
    if config.certain:
        per_cell = per_cell * teacher.detach().sigmoid().flatten(1).amax(1)
    total = config.temperature**2 * per_cell.sum()
    return config.logit.weight * total / max(len(student) / frames, LEAST_COUNT) / frames


def cld_per_cell(
    student: Float[Tensor, "q a c"], teacher: Float[Tensor, "q a c"], config: CldConfig
) -> Float[Tensor, " q"]:
    """Divergence at each cell, before the temperature's square."""
    ours = _log_probability(_flattened(student, config), config)
    theirs = _log_probability(_flattened(teacher, config), config)
    if config.divergence == "kl":
        return _kl(theirs, ours).sum(1)
    middle = torch.logaddexp(ours, theirs) - math.log(2)
    return (_kl(theirs, middle) + _kl(ours, middle)).sum(1) / 2


def _flattened(logit: Float[Tensor, "q a c"], config: CldConfig) -> Float[Tensor, "q g k"]:
    """Groups of logits of which one is to win."""
    anchors, classes = logit.shape[1:]
    if config.flatten == "per_class":
        return logit.mT
    if config.flatten == "all":
        return logit.flatten(1)[:, None]
    if config.flatten == "max_class":
        return logit.amax(2)[:, None]
    # Slots are classes, then rotations (``frames/anchors.py``).
    slots = torch.arange(anchors, device=logit.device)
    return logit[:, slots, slots // (anchors // classes)][:, None]


def _log_probability(logit: Float[Tensor, "q g k"], config: CldConfig) -> Float[Tensor, "q g _"]:
    logit = logit / config.temperature
    if config.probability == "sigmoid":
        log_sigmoid = F.logsigmoid(logit)
        return log_sigmoid - log_sigmoid.logsumexp(2, keepdim=True)
    if config.probability == "softmax_with_nothing":
        logit = F.pad(logit, (0, 1))
    return logit.log_softmax(2)


def _kl(of: Float[Tensor, "q g k"], against: Float[Tensor, "q g k"]) -> Float[Tensor, "q g"]:
    return (of.exp() * (of - against)).sum(2)
