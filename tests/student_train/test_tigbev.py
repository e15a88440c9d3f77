"""TiG-BEV's losses: by hand, against its matrices written out, and what it reads."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from store.schema import Need, Places, Target
from student_train.methods.base import Method
from student_train.methods.tigbev import TigBev, TigBevConfig, channel_loss, keypoint_loss
from tests.student_train.method_suite import CONTEXT, MethodSuite

YES = torch.ones(1, 1, dtype=torch.bool)


class TestTigBev(MethodSuite):
    def build(self) -> Method:
        return TigBev(TigBevConfig(projector="where_needed"), CONTEXT)


def test_keypoints_by_hand():
    """Eight points alike in both. The ninth is theirs, too, with the teacher, and at right angles
    to them with the student: rows (1 x 8, 0)/sqrt(8) and (0 x 8, 1) against nine times 1/3."""
    teacher = torch.zeros(1, 1, 9, 2)
    teacher[..., 0] = 1
    student = teacher.clone()
    student[0, 0, 8] = torch.tensor([0.0, 1.0])
    eight = 8 * (1 / math.sqrt(8) - 1 / 3) ** 2 + 1 / 9
    ninth = 8 / 9 + (1 - 1 / 3) ** 2
    loss = keypoint_loss(student, teacher, YES)
    assert loss.item() == pytest.approx((8 * eight + ninth) / 9, rel=1e-5)


def test_channels_by_hand():
    """Two channels that are one with the teacher, and have no point in common with the student:
    rows (1, 0) and (0, 1) against (1, 1) / sqrt(2)."""
    student, teacher = torch.zeros(1, 1, 9, 2), torch.zeros(1, 1, 9, 2)
    student[0, 0, :4, 0] = 1
    student[0, 0, 4:, 1] = 1
    teacher[0, 0, :3] = 1
    loss = channel_loss(student, teacher, YES)
    assert loss.item() == pytest.approx(2 - math.sqrt(2), rel=1e-5)


def literal(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """As the released code writes it, boxes first, a box's features as (C, points)."""
    maps = [x.flatten(0, 1).mT for x in (student, teacher)]
    points = [F.normalize(x.mT.matmul(x), dim=2) for x in maps]
    channels = [F.normalize(x.matmul(x.mT), dim=2) for x in maps]
    between = [(own - other).square().sum(-1).mean() for own, other in (points, channels)]
    return between[0], between[1]


@pytest.mark.parametrize("seed", range(4))
def test_they_equal_the_matrices_written_out(seed: int):
    rng = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(2, 3, 9, 7, generator=rng, dtype=torch.float64) for _ in "ab")
    # After a ReLU a channel may be 0 at all points of a box, on either side or both.
    student[0, 0, :, :2] = 0
    teacher[0, 0, :, 1:3] = 0
    counts = torch.ones(2, 3, dtype=torch.bool)
    student.requires_grad_()
    found = keypoint_loss(student, teacher, counts), channel_loss(student, teacher, counts)
    for own, expected in zip(found, literal(student, teacher), strict=True):
        assert own.item() == pytest.approx(expected.item(), abs=1e-12)
        (gradient,) = torch.autograd.grad(own, student, retain_graph=True)
        (slow,) = torch.autograd.grad(expected, student, retain_graph=True)
        # A channel without any value has no direction to be turned to.
        assert torch.allclose(gradient[0, 1:], slow[0, 1:], atol=1e-12)
        assert gradient.isfinite().all()


def test_what_it_reads_and_learns():
    method = TigBev(TigBevConfig(), CONTEXT)
    assert method.needs(method.config, None) == {Need(Target.BEV_HIGH, Places.POINTS)}
    assert sum(p.numel() for p in method.parameters()) == 4 * 4 + 4
