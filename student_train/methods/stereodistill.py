"""StereoDistill's two losses on anchors, XGD and CLD, as functions of tensors.

StereoDistill (Liu et al., AAAI 2023, arXiv 2301.01615); no code was released, and the paper's
equations could not be read: every choice of the specification (parts 5 and 6) is a config value.

XGD splits the box code of each positive anchor into position, size and heading. A component is
distilled where its pilots, student -> teacher and student -> truth, point the same way.
CLD compares, at each cell, which of all its anchors and classes is the most likely one.

Axes: N positive anchors, Q cells, A anchors of a cell, C classes. Codes: ``frames/anchor_code.py``.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, PositiveFloat
from torch import Tensor

from frames.anchor_code import decode_at_anchors
from frames.geometry import wrap_angle
from student_train.methods.base import MethodConfig
from student_train.methods.xgd import GateConfig, gate

POSITION, SIZE, HEADING = slice(0, 3), slice(3, 6), slice(6, 7)
Parts = dict[str, tuple[slice, ...]]
GROUPS: dict[str, Parts] = {
    "components": {"position": (POSITION,), "size": (SIZE,), "heading": (HEADING,)},
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
# As in the supervised loss: fewer positives, or cells, count as so many.
LEAST_COUNT = 10


class AnchorXgdConfig(GateConfig):
    """XGD's choices (specification, part 5.3).

    Attributes:
        space: Where pilots are compared: the code, or metres and radians.
        granularity: Components as in the paper's figure, height apart, single numbers, or the
            whole box (kept only if every component is).
        loss: Distance between the codes; the heading's is that of the sine of the difference.
        beta: Where smooth L1 turns linear.
        normaliser: Positive anchors, as the supervised loss counts, or kept components.
        weight: Of the whole term; the supervised box loss has the same.
    """

    space: Literal["code", "metric"] = "code"
    granularity: Literal["components", "split_z", "scalars", "whole_box"] = "components"
    loss: Literal["smooth_l1", "l1"] = "smooth_l1"
    beta: PositiveFloat = 1 / 9
    normaliser: Literal["positives", "kept"] = "positives"
    weight: float = Field(0.5, ge=0)


class CldConfig(MethodConfig):
    """CLD's choices (specification, part 6.3).

    Attributes:
        flatten: What competes at a cell: all its logits; the anchors, for each class apart or for
            each anchor's own class alone; the anchors by their likeliest class.
        probability: Softmax of the logits; the same with a logit of 0 for nothing; sigmoids over
            their sum.
        divergence: Kullback-Leibler from the teacher's, or Jensen-Shannon.
        temperature: Divides the logits; the loss is multiplied by its square.
        weight: Of the whole term.
    """

    flatten: Literal["all", "per_class", "own_class", "max_class"] = "all"
    probability: Literal["softmax", "softmax_with_nothing", "sigmoid"] = "softmax"
    divergence: Literal["kl", "js"] = "kl"
    temperature: PositiveFloat = 1.0
    weight: float = Field(1.0, ge=0)


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
    frames: int,
    config: AnchorXgdConfig,
) -> Float[Tensor, ""]:
    """The weighted term of a batch.

    Args:
        kept: Of all positive anchors of the batch, from :func:`anchor_xgd`.
        losses: Likewise.
        frames: Of the batch.
        config: Switches.
    """
    total = torch.stack(list(losses.values())).sum()
    if config.normaliser == "positives":
        count = total.new_tensor(len(losses["heading"]) / frames)
    else:
        count = torch.stack([(part > 0).float().mean(1).sum() for part in kept.values()]).sum()
        count = count / frames
    return config.weight * total / count.clamp(min=LEAST_COUNT) / frames


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
    total = config.temperature**2 * cld_per_cell(student, teacher.detach(), config).sum()
    return config.weight * total / max(len(student) / frames, LEAST_COUNT) / frames


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
