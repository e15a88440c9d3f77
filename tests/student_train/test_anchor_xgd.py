import math

import pytest
import torch
from torch import Tensor

from frames.anchors import AnchorConfig
from student_train.methods.anchor_xgd import (
    AnchorXgdConfig,
    anchor_xgd,
    pilots_at_anchors,
    xgd_loss,
)
from student_train.methods.base import TermConfig
from student_train.methods.xgd import mean_angles

ONE = TermConfig(weight=1)
# Golden vectors, worked out apart from this code.
S = torch.tensor(
    [
        [0.10, 0.05, 0.30, 0.02, -0.03, 0.01, 0.20],
        [-0.12, 0.08, 0.45, -0.05, 0.04, 0.03, -0.40],
        [0.02, -0.06, 0.52, 0.10, 0.02, -0.02, 1.45],
    ],
    dtype=torch.float64,
)
G = torch.tensor(
    [
        [0.16, -0.02, 0.38, 0.06, 0, 0.03, 0.05],
        [-0.10, 0.02, 0.40, 0.01, 0.01, 0.05, -0.10],
        [-0.03, 0.01, 0.50, 0.04, 0.05, 0.01, -1.60],
    ],
    dtype=torch.float64,
)
T = torch.tensor(
    [
        [0.15, 0, 0.33, 0.05, -0.05, 0.02, 0.07],
        [-0.15, 0.10, 0.50, -0.01, 0.02, 0.04, -0.55],
        [-0.01, 0, 0.56, 0.12, 0.01, -0.03, 1.60],
    ],
    dtype=torch.float64,
)
ANCHORS = AnchorConfig().boxes()[[0, 1, 0]].double()
FLIP = torch.tensor([1, -1, 1, 1, 1, 1, -1], dtype=torch.float64)


def total(student: Tensor, teacher: Tensor, truth: Tensor, config: AnchorXgdConfig) -> Tensor:
    return xgd_loss(*anchor_xgd(student, teacher, truth, ANCHORS, config), 3, 1, config)


def test_xgds_golden_vectors():
    kept, losses = anchor_xgd(S, T, G, ANCHORS, AnchorXgdConfig())
    assert kept["position"][:, 0].tolist() == [1, 0, 1]
    assert kept["size"][:, 0].tolist() == [1, 1, 0]
    assert kept["heading"][:, 0].tolist() == [1, 0, 1]
    assert losses["position"].tolist() == pytest.approx([0.026550, 0, 0.027450], abs=1e-6)
    assert losses["size"].tolist() == pytest.approx([0.006300, 0.009450, 0], abs=1e-6)
    assert losses["heading"].tolist() == pytest.approx([0.074079, 0, 0.093883], abs=1e-6)
    found = total(S, T, G, AnchorXgdConfig(box=ONE))
    assert found.item() == pytest.approx(0.023771, abs=1e-6)
    angles = mean_angles(*pilots_at_anchors(S, T, G, ANCHORS, AnchorXgdConfig()))
    assert {name: angle.item() for name, angle in angles.items()} == pytest.approx(
        {
            "angle/position": (18.336 + 149.906 + 44.735) / 3,
            "angle/size": (66.607 + 3.997 + 180) / 3,
            "angle/heading": 60,
        },
        abs=1e-3,
    )


def literal_xgd(weight: float) -> float:
    """Part 5.1, number by number."""
    summed = 0.0
    for s, t, g in zip(S.tolist(), T.tolist(), G.tolist(), strict=True):
        for part in (range(3), range(3, 6), range(6, 7)):
            ways = [(t[k] - s[k], g[k] - s[k]) for k in part]
            if 6 in part:
                ways = [tuple((w + math.pi / 2) % math.pi - math.pi / 2 for w in ways[0])]
            if sum(a * b for a, b in ways) > 0:
                for k in part:
                    gap = abs(math.sin(s[k] - t[k]) if k == 6 else s[k] - t[k])
                    summed += gap**2 * 4.5 if gap < 1 / 9 else gap - 1 / 18
    return weight * summed / 10


def test_xgd_is_its_equations_read_literally():
    assert total(S, T, G, AnchorXgdConfig()).item() == pytest.approx(literal_xgd(0.5), abs=1e-12)


def test_a_teacher_that_is_right_is_kept_whole_and_one_beyond_the_student_not():
    for teacher, expected in ((G, 1), (2 * S - G, 0)):
        kept, _ = anchor_xgd(S, teacher, G, ANCHORS, AnchorXgdConfig())
        assert all((part == expected).all() for part in kept.values())


def test_xgd_of_a_mirrored_scene_is_the_same():
    for config in (AnchorXgdConfig(), AnchorXgdConfig(granularity="scalars")):
        mirrored = total(S * FLIP, T * FLIP, G * FLIP, config)
        assert mirrored.item() == total(S, T, G, config).item()


def test_a_student_like_its_teacher_has_no_loss():
    student = T.clone().requires_grad_()
    loss = total(student, T, G, AnchorXgdConfig(gate="none"))
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None
    assert (student.grad == 0).all()


def test_only_the_student_gets_xgds_gradient():
    student, teacher, truth = (x.clone().requires_grad_() for x in (S, T, G))
    total(student, teacher, truth, AnchorXgdConfig()).backward()
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None
    assert truth.grad is None


def test_a_batch_is_the_mean_of_its_frames():
    config = AnchorXgdConfig()
    s, t, g, anchors = (torch.cat([x, x]) for x in (S, T, G, ANCHORS))
    twice = anchor_xgd(s, t, g, anchors, config)
    assert xgd_loss(*twice, 6, 2, config).item() == pytest.approx(total(S, T, G, config).item())


def test_no_positives_no_loss():
    student = torch.zeros(0, 7, requires_grad=True)
    config = AnchorXgdConfig(normaliser="kept")
    loss = xgd_loss(*anchor_xgd(student, T[:0], G[:0], ANCHORS[:0], config), 0, 2, config)
    loss.backward()
    assert loss.item() == 0


def test_the_spaces_can_disagree():
    # Part 5.3: ways of (1, 0, -0.5) and (0.4, 0, 0.5) metres agree, their codes do not.
    anchor = ANCHORS[:1]
    diagonal, height = anchor[0, 3:5].norm(), anchor[0, 5]
    scale = torch.stack([diagonal, diagonal, height])
    student = torch.zeros(1, 7, dtype=torch.float64)
    teacher, truth = student.clone(), student.clone()
    teacher[0, :3] = torch.tensor([1, 0, -0.5]) / scale
    truth[0, :3] = torch.tensor([0.4, 0, 0.5]) / scale
    found = [
        anchor_xgd(student, teacher, truth, anchor, AnchorXgdConfig(space=space))[0]["position"]
        for space in ("metric", "code")
    ]
    assert [kept.item() for kept in found] == [1, 0]


def test_whole_boxes_are_kept_only_if_every_component_is():
    kept, losses = anchor_xgd(S, T, G, ANCHORS, AnchorXgdConfig(granularity="whole_box"))
    assert kept["size"][:, 0].tolist() == [1, 0, 0]
    assert (losses["heading"] > 0).tolist() == [True, False, False]


def test_kept_components_can_be_the_normaliser():
    s, t, g, anchors = (torch.cat([x] * 20) for x in (S, T, G, ANCHORS))
    config = AnchorXgdConfig(normaliser="kept", box=ONE)
    # Six of nine components are kept; summed loss 0.237711.
    found = xgd_loss(*anchor_xgd(s, t, g, anchors, config), 60, 1, config).item()
    assert found == pytest.approx(20 * 0.237711 / (20 * 6), abs=1e-6)


def test_kept_scalars_count_as_shares_of_their_component():
    s, t, g, anchors = (torch.cat([x] * 20) for x in (S, T, G, ANCHORS))
    config = AnchorXgdConfig(granularity="scalars", normaliser="kept", box=ONE)
    kept, losses = anchor_xgd(s, t, g, anchors, config)
    count = sum(float((part > 0).double().mean(1).sum()) for part in kept.values())
    assert count != sum(float((part > 0).double().sum()) for part in kept.values())
    total_ = sum(float(part.sum()) for part in losses.values())
    assert xgd_loss(kept, losses, 60, 1, config).item() == pytest.approx(total_ / count)
