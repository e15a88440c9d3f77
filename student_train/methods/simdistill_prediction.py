"""SimDistill's MMD-P: a centre head's heatmaps and boxes follow another's, in two forms.

What the released code does and what it means to: ``simdistill.py``.

Axes: B batch, M boxes (padded), N cells (all, or the foreground's, padded).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from nets.center_loss import PROBABILITY_CLIP, CenterLossConfig
from nets.quality_focal import quality_focal

# Where the teacher's probability is above it, a cell is positive (code).
POSITIVE = 0.1
SMOOTH_L1_BETA = 1 / 9
SIN_YAW = 6
CODE_WEIGHTS = CenterLossConfig().code


def class_loss(
    student_logit: Float[Tensor, "b n classes"],
    teacher_logit: Float[Tensor, "b n classes"],
    valid: Bool[Tensor, "b n"],
    class_task: Int64[Tensor, " classes"],
) -> Float[Tensor, ""]:
    """Quality focal loss, a task's sum over cells by its positive cells; mean over frames.

    Args:
        student_logit: At cells.
        teacher_logit: The teacher's, no gradient.
        valid: Cells that count.
        class_task: Task of each class.
    """
    target = _probability(teacher_logit.detach())
    focal = quality_focal(student_logit.float(), target)
    each = torch.where(valid[..., None], focal, 0.0).sum(1)
    positive = ((target > POSITIVE) & valid[..., None]).sum(1).float()
    of_task = positive.new_zeros(positive.shape).index_add(1, class_task, positive)
    return (each / of_task[:, class_task].clamp(min=1)).sum(1).mean()


def released_class_loss(
    student_logit: Float[Tensor, "b n classes"],
    teacher_logit: Float[Tensor, "b n classes"],
    class_task: Int64[Tensor, " classes"],
) -> Float[Tensor, ""]:
    """The released form: a sum over the batch, for each task over cells / classes of the task.

    Args:
        student_logit: At all cells.
        teacher_logit: The teacher's, no gradient.
        class_task: Task of each class.
    """
    target = _probability(teacher_logit.detach()).sigmoid()
    each = quality_focal(_probability(student_logit), target).sum((0, 1))
    classes = torch.bincount(class_task)[class_task]
    return (each * classes / student_logit.shape[1]).sum()


def box_loss(
    student: Float[Tensor, "b m 10"],
    teacher: Float[Tensor, "b m 10"],
    task: Int64[Tensor, "b m"],
    valid: Bool[Tensor, "b m"],
    tasks: int,
) -> Float[Tensor, ""]:
    """Smooth L1 of weighted box codes, mean over each frame's objects of a task; mean over frames.

    Args:
        student: Codes at the objects' centre cells.
        teacher: The teacher's, no gradient.
        task: Of each object.
        valid: False on padding and off the grid.
        tasks: How many there are.
    """
    gap = torch.where(valid, _smooth_l1(student, teacher.detach()), 0.0)
    of_task = F.one_hot(task, tasks) * valid[..., None]
    return ((gap[..., None] * of_task).sum(1) / of_task.sum(1).clamp(min=1)).sum(1).mean()


def released_box_loss(
    codes: tuple[Float[Tensor, "b m 10"], Float[Tensor, "b m 10"]],
    corner: tuple[Float[Tensor, "b tasks 10"], Float[Tensor, "b tasks 10"]],
    task: Int64[Tensor, "b m"],
    valid: Bool[Tensor, "b m"],
    slots: int,
) -> Float[Tensor, ""]:
    """The released form: a sum over the batch; slots without an object read the corner cell.

    Args:
        codes: Student's and teacher's at the objects' centre cells.
        corner: Theirs at the first cell of the grid, of each task.
        task: Of each object.
        valid: False on padding and off the grid.
        slots: Of each task in a frame.
    """
    (student, teacher), (own, other) = _with_sine(*codes), _with_sine(*corner)
    objects = torch.where(valid, _smooth_l1(student, teacher), 0.0).sum()
    taken = (F.one_hot(task, own.shape[1]) * valid[..., None]).sum(1)
    empty = ((slots - taken).clamp(min=0) * _smooth_l1(own, other)).sum()
    return (objects + empty) / slots


def _probability(logit: Tensor) -> Tensor:
    return logit.float().sigmoid().clamp(PROBABILITY_CLIP, 1 - PROBABILITY_CLIP)


def _smooth_l1(student: Float[Tensor, "*n 10"], teacher: Float[Tensor, "*n 10"]) -> Tensor:
    gap = (student - teacher.float()) * student.new_tensor(CODE_WEIGHTS)
    return F.smooth_l1_loss(gap, torch.zeros_like(gap), reduction="none", beta=SMOOTH_L1_BETA).sum(
        -1
    )


def _with_sine(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """The sine of yaw taken for an angle: sin a cos b against cos a sin b."""
    teacher = teacher.detach().float()
    a, b = student[..., SIN_YAW], teacher[..., SIN_YAW]
    pair = []
    for code, sine in ((student, a.sin() * b.cos()), (teacher, a.cos() * b.sin())):
        pair.append(
            torch.cat([code[..., :SIN_YAW], sine[..., None], code[..., SIN_YAW + 1 :]], dim=-1)
        )
    return pair[0], pair[1]
