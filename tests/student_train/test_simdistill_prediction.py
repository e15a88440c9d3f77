"""SimDistill's MMD-P by hand."""

import math

import pytest
import torch
from torch import Tensor

from frames.box_code import CODE_SIZE
from student_train.methods.simdistill_prediction import (
    box_loss,
    class_loss,
    released_box_loss,
    released_class_loss,
)

ONE_TASK = torch.zeros(1, dtype=torch.int64)


def test_classes_by_hand():
    """One class, three cells: the teacher says 0.5 twice and all but nothing, the student 0.5."""
    teacher = torch.tensor([0.0, 0.0, -20.0]).view(1, 3, 1)
    student = torch.tensor([math.log(3), 0.0, 0.0]).view(1, 3, 1)
    # Positive are two cells. p = 0.75 against 0.5; equal; 0.5 against 1e-4.
    first = -0.5 * math.log(0.75 * 0.25) * 0.25**2
    last = math.log(2) * (0.5 - 1e-4) ** 2
    found = class_loss(student, teacher, torch.ones(1, 3, dtype=torch.bool), ONE_TASK)
    assert found.item() == pytest.approx((first + last) / 2, rel=1e-5)
    only = class_loss(student, teacher, torch.tensor([[True, False, False]]), ONE_TASK)
    assert only.item() == pytest.approx(first, rel=1e-5)


def test_released_classes_by_hand():
    """Probabilities for logits: x = 0.75 against the sigmoid of 0.5, three cells, two classes."""
    teacher, student = torch.zeros(1, 3, 2), torch.zeros(1, 3, 2)
    student[0, 0, 0] = math.log(3)
    t, p = 1 / (1 + math.exp(-0.5)), 1 / (1 + math.exp(-0.75))
    loss = -(t * math.log(p) + (1 - t) * math.log(1 - p)) * (p - t) ** 2
    task = torch.zeros(2, dtype=torch.int64)
    assert released_class_loss(student, teacher, task).item() == pytest.approx(
        loss / (3 / 2), rel=1e-4
    )
    # With a task each, a task's cells are divided by one class.
    found = released_class_loss(student, teacher, torch.tensor([0, 1])).item()
    assert found == pytest.approx(loss / 3, rel=1e-4)


def some_code(**parts: float) -> Tensor:
    code = torch.zeros(CODE_SIZE)
    for name, value in parts.items():
        code[int(name[1:])] = value
    return code


def test_boxes_by_hand():
    """Frame 1: tasks of two objects and of one; frame 2: one object of the first task."""
    student = torch.stack(
        [
            torch.stack([some_code(c0=1.0), some_code(c8=1.0), some_code(c2=0.1)]),
            torch.stack([some_code(c3=2.0), some_code(c0=5.0), some_code(c0=5.0)]),
        ]
    )
    task = torch.tensor([[0, 0, 1], [0, 0, 1]])
    valid = torch.tensor([[True, True, True], [True, False, False]])
    half = 1 / 18  # of beta
    # Velocity counts 0.2; 0.1 is below beta.
    first = ((1 - half) + (0.2 - half)) / 2 + 0.1**2 * 9 / 2
    second = 2 - half
    found = box_loss(student, torch.zeros(2, 3, CODE_SIZE), task, valid, 2)
    assert found.item() == pytest.approx((first + second) / 2, rel=1e-5)


def test_released_boxes_by_hand():
    """Five slots, one object: four times the corner; the sine of yaw is taken for an angle."""
    student, teacher = some_code(c6=0.8)[None, None], some_code(c6=-0.2)[None, None]
    corner = some_code(c1=0.3)[None, None], torch.zeros(1, 1, CODE_SIZE)
    task, valid = torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.bool)
    found = released_box_loss((student, teacher), corner, task, valid, 5).item()
    half = 1 / 18
    assert found == pytest.approx((math.sin(1.0) - half + 4 * (0.3 - half)) / 5, rel=1e-5)
    nothing = released_box_loss((student, teacher), corner, task, ~valid, 5).item()
    assert nothing == pytest.approx(0.3 - half, rel=1e-5)


def test_released_compresses_what_intended_asks_for():
    """Both are least where student and teacher agree, but the released one barely pulls."""
    teacher, task = torch.full((1, 1, 1), 4.0), ONE_TASK
    yes = torch.ones(1, 1, dtype=torch.bool)
    pulls = []
    for released in (False, True):
        logit = torch.zeros(1, 1, 1, requires_grad=True)
        loss = (
            released_class_loss(logit, teacher, task)
            if released
            else class_loss(logit, teacher, yes, task)
        )
        (gradient,) = torch.autograd.grad(loss, logit)
        assert gradient < 0
        pulls.append(-gradient.item())
    assert pulls[1] < pulls[0] / 10
