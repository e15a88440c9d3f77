import math

import pytest
import torch
from torch import Tensor

from student_train.methods.base import Method, TermConfig
from student_train.methods.xgd import Xgd, XgdConfig, gate, xgd_components
from tests.student_train.method_suite import CONTEXT, MethodSuite

# Codes: dx dy z | ln l w h | sin cos | vx vy. Only the position differs.
STUDENT = [0.10, 0.05, 0.30, 0, 0, 0, 0, 1, 0, 0]


def code(**parts: tuple[float, ...]) -> Tensor:
    row = torch.tensor(STUDENT)
    places = {"position": 0, "size": 3, "heading": 6, "velocity": 8}
    for name, values in parts.items():
        row[places[name] : places[name] + len(values)] = torch.tensor(values)
    return row[None]


class TestXgd(MethodSuite):
    def build(self) -> Method:
        return Xgd(XgdConfig(gate="none", box=TermConfig(weight=1.0)), CONTEXT)


class TestWholeBoxXgd(MethodSuite):
    def build(self) -> Method:
        config = XgdConfig(space="metric", normaliser="kept", gate="none", loss="smooth_l1")
        return Xgd(config, CONTEXT)


def test_golden_positions_of_the_specification():
    # Inner products .0089, -.0043, .0049, so kept 1, 0, 1.
    rows = [
        ((0.10, 0.05, 0.30), (0.16, -0.02, 0.38), (0.15, 0.0, 0.33), 1, 0.026550),
        ((-0.12, 0.08, 0.45), (-0.10, 0.02, 0.40), (-0.15, 0.10, 0.50), 0, 0.0),
        ((0.02, -0.06, 0.52), (-0.03, 0.01, 0.50), (-0.01, 0.0, 0.56), 1, 0.027450),
    ]
    config = XgdConfig(loss="smooth_l1")
    for student, truth, teacher, keep, loss in rows:
        kept, losses = xgd_components(
            code(position=student), code(position=teacher), code(position=truth), config
        )
        assert kept["position"].item() == keep
        assert losses["position"].item() == pytest.approx(loss, abs=1e-6)


def test_golden_sizes_of_the_specification():
    rows = [
        ((0.02, -0.03, 0.01), (0.06, 0.0, 0.03), (0.05, -0.05, 0.02), 1, 0.006300),
        ((-0.05, 0.04, 0.03), (0.01, 0.01, 0.05), (-0.01, 0.02, 0.04), 1, 0.009450),
        ((0.10, 0.02, -0.02), (0.04, 0.05, 0.01), (0.12, 0.01, -0.03), 0, 0.0),
    ]
    for student, truth, teacher, keep, loss in rows:
        kept, losses = xgd_components(
            code(size=student),
            code(size=teacher),
            code(size=truth),
            XgdConfig(loss="smooth_l1"),
        )
        assert kept["size"].item() == keep
        assert losses["size"].item() == pytest.approx(loss, abs=1e-6)


def test_a_teacher_on_the_truth_is_kept_and_one_behind_the_student_is_not():
    student, truth = torch.randn(50, 10), torch.randn(50, 10)
    on_truth, _ = xgd_components(student, truth, truth, XgdConfig())
    behind, losses = xgd_components(student, 2 * student - truth, truth, XgdConfig())
    assert all((kept == 1).all() for kept in on_truth.values())
    assert all((kept == 0).all() for kept in behind.values())
    assert all((loss == 0).all() for loss in losses.values())


def test_the_loss_is_l1_by_component():
    _, losses = xgd_components(
        code(),
        code(position=(0.2, 0.0, 0.3), velocity=(2.0, -1.0)),
        code(position=(0.3, -0.1, 0.3), velocity=(3.0, -3.0)),
        XgdConfig(),
    )
    assert losses["position"].item() == pytest.approx(0.1 + 0.05)
    assert losses["velocity"].item() == pytest.approx(3.0)
    assert losses["size"].item() == 0


def test_metric_heading_takes_the_short_way_round():
    def heading(angle: float) -> Tensor:
        return code(heading=(math.sin(angle), math.cos(angle)))

    # From 3.0 to -3.0 is +0.28 rad across the seam; the teacher at 3.1 lies that way.
    metric = XgdConfig(space="metric", gate="closer")
    kept, _ = xgd_components(heading(3.0), heading(3.1), heading(-3.0), metric)
    assert kept["heading"].item() == 1
    kept, _ = xgd_components(heading(3.0), heading(2.9), heading(-3.0), metric)
    assert kept["heading"].item() == 0


def test_code_and_metric_space_can_disagree():
    # A cell of 2 m makes the plane count four times as much as the height.
    student, truth = code(position=(0.0, 0.0, 0.0)), code(position=(0.2, 0.0, 0.3))
    teacher = code(position=(0.2, 0.0, -0.2))
    arguments = (student, teacher, truth)
    in_code, _ = xgd_components(*arguments, XgdConfig(), cell_size=2.0)
    in_metres, _ = xgd_components(*arguments, XgdConfig(space="metric"), cell_size=2.0)
    assert in_code["position"].item() == 0
    assert in_metres["position"].item() == 1


def test_closer_is_a_strict_subset_of_acute():
    to_teacher, to_truth = torch.randn(2000, 3), torch.randn(2000, 3)
    acute = gate(to_teacher, to_truth, XgdConfig(gate="acute"))
    closer = gate(to_teacher, to_truth, XgdConfig(gate="closer"))
    assert (closer <= acute).all()
    assert closer.sum() < acute.sum()
    # An identity: closer iff <v_T, v_G> > |v_T|^2 / 2.
    literal = (to_teacher * to_truth).sum(1) > 0.5 * to_teacher.square().sum(1)
    assert torch.equal(closer.bool(), literal)


def test_overshoot_is_kept_by_acute_and_rejected_by_closer():
    to_teacher, to_truth = torch.tensor([[0.3]]), torch.tensor([[0.1]])
    assert gate(to_teacher, to_truth, XgdConfig(gate="acute")).item() == 1
    assert gate(to_teacher, to_truth, XgdConfig(gate="closer")).item() == 0


def test_soft_gates_by_hand():
    to_teacher, to_truth = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    cosine = gate(to_teacher, to_truth, XgdConfig(gate="cosine")).item()
    squared = gate(to_teacher, to_truth, XgdConfig(gate="cosine_squared")).item()
    assert cosine == pytest.approx(math.sqrt(0.5))
    assert squared == pytest.approx(0.5)


def test_a_whole_box_falls_with_its_worst_component():
    student, truth = torch.randn(40, 10), torch.randn(40, 10)
    teacher = truth.clone()
    teacher[:, 3:6] = (2 * student - truth)[:, 3:6]
    parts, _ = xgd_components(student, teacher, truth, XgdConfig())
    whole, losses = xgd_components(student, teacher, truth, XgdConfig(granularity="whole_box"))
    assert (parts["position"] == 1).all()
    assert (whole["position"] == 0).all()
    assert losses["position"].sum() == 0


@pytest.mark.parametrize("granularity", ["components", "split_z", "scalars"])
@pytest.mark.parametrize("space", ["code", "metric"])
def test_equals_a_literal_reading(granularity: str, space: str):
    student, teacher, truth = torch.randn(3, 30, 10).unbind(0)
    config = XgdConfig(granularity=granularity, space=space)
    _, losses = xgd_components(student, teacher, truth, config, cell_size=0.8)
    literal = literal_xgd(student, teacher, truth, granularity, space)
    for name, values in losses.items():
        assert values.tolist() == pytest.approx(literal[name], abs=1e-4)


def literal_xgd(
    student: Tensor, teacher: Tensor, truth: Tensor, granularity: str, space: str
) -> dict[str, list[float]]:
    """One box, one group at a time, in plain Python."""
    groups = {
        "components": {"position": [[0, 1, 2]], "size": [[3, 4, 5]], "velocity": [[8, 9]]},
        "split_z": {"position": [[0, 1], [2]], "size": [[3, 4, 5]], "velocity": [[8, 9]]},
        "scalars": {
            "position": [[0], [1], [2]],
            "size": [[3], [4], [5]],
            "velocity": [[8], [9]],
        },
    }[granularity]
    groups = {**groups, "heading": [[6, 7]]}
    result: dict[str, list[float]] = {name: [] for name in groups}
    for s, t, g in zip(student.tolist(), teacher.tolist(), truth.tolist(), strict=True):
        for name, parts in groups.items():
            loss = 0.0
            for part in parts:
                if inner_product(s, t, g, part, space) > 0:
                    loss += sum(abs(s[k] - t[k]) for k in part)
            result[name].append(loss)
    return result


def inner_product(
    s: list[float], t: list[float], g: list[float], part: list[int], space: str
) -> float:
    if space == "metric" and part == [6, 7]:
        angles = [math.atan2(c[6], c[7]) for c in (s, t, g)]

        def turn(a: float) -> float:
            return (a + math.pi) % (2 * math.pi) - math.pi

        return turn(angles[1] - angles[0]) * turn(angles[2] - angles[0])
    total = 0.0
    for k in part:
        a, b, c = s[k], t[k], g[k]
        if space == "metric" and k in (0, 1):
            a, b, c = 0.8 * a, 0.8 * b, 0.8 * c
        if space == "metric" and k in (3, 4, 5):
            a, b, c = math.exp(a), math.exp(b), math.exp(c)
        total += (b - a) * (c - a)
    return total
