"""Gradient shares against norms worked out by hand."""

import pytest
import torch

from student_train.balance import GradientBalance
from student_train.config import BalanceConfig

FEATURES = torch.ones(1, 1, 1, 2)


def features() -> torch.Tensor:
    return FEATURES.clone().requires_grad_()


def dot(map_: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """A term whose gradient on the map is (x, y)."""
    return (map_ * torch.tensor([x, y])).sum()


def balance(momentum: float = 0.5, every: int = 10, **wanted: float) -> GradientBalance:
    return GradientBalance(wanted, BalanceConfig(every=every, momentum=momentum))


def test_a_share_is_the_ratio_of_gradient_norms():
    """|(6, 8)| / |(3, 4)| = 10 / 5."""
    held, map_ = balance(a=0.5), features()
    shares = held.measure(map_, dot(map_, 3, 4), {"a": dot(map_, 6, 8), "b": dot(map_, 0, -1)})
    assert {name: float(share) for name, share in shares.items()} == pytest.approx(
        {"a": 2.0, "b": 0.2}
    )


def test_the_factor_brings_a_term_to_its_wanted_share():
    held, map_ = balance(a=0.5), features()
    held.measure(map_, dot(map_, 3, 4), {"a": dot(map_, 6, 8)})
    assert held.factor("a") == pytest.approx(0.25)
    assert held.factor("b") == 1
    (gradient,) = torch.autograd.grad(held.factor("a") * dot(map_, 6, 8), map_)
    assert float(gradient.norm()) == pytest.approx(0.5 * 5)


def test_measuring_leaves_the_graph_and_the_gradients_alone():
    held, map_ = balance(a=0.5), features()
    detection, term = dot(map_, 3, 4), dot(map_, 6, 8)
    held.measure(map_, detection, {"a": term})
    (detection + term).backward()
    assert map_.grad is not None
    assert map_.grad.flatten().tolist() == [9, 12]


def test_estimates_are_smoothed_after_the_first():
    """Shares 2, 4, 1 with momentum 0.5: 2, then 3, then 2."""
    held, map_ = balance(a=1.0), features()
    smoothed = []
    for size in (2, 4, 1):
        held.measure(map_, dot(map_, 1, 0), {"a": dot(map_, size, 0)})
        smoothed.append(1 / held.factor("a"))
    assert smoothed == pytest.approx([2, 3, 2])


def test_a_term_without_gradient_has_a_share_of_0_and_is_asked_again():
    """Such as a constant, and one whose every gap is closed."""
    held, map_ = balance(a=0.5, b=0.5), features()
    terms = {"a": torch.tensor(7.0), "b": 0 * map_.sum()}
    shares = held.measure(map_, dot(map_, 3, 4), terms)
    assert {name: float(share) for name, share in shares.items()} == {"a": 0, "b": 0}
    assert held.due(1, {"a"})


def test_a_term_on_another_map_has_no_share():
    held, map_ = balance(), features()
    other = torch.ones(2, requires_grad=True)
    terms = {"before": other.sum(), "both": other.sum() + dot(map_, 3, 4)}
    shares = held.measure(map_, dot(map_, 3, 4), terms)
    assert {name: float(share) for name, share in shares.items()} == {"both": 1}


def test_a_detection_loss_without_gradient_gives_finite_shares():
    held, map_ = balance(a=0.5), features()
    held.measure(map_, 0 * map_.sum(), {"a": dot(map_, 6, 8)})
    assert 0 < held.factor("a") < 1e-6


def test_when_to_measure():
    held, map_ = balance(a=0.5, b=0.5), features()
    assert held.due(1, {"a"})
    held.measure(map_, dot(map_, 3, 4), {"a": dot(map_, 6, 8)})
    assert not held.due(1, {"a"})
    assert held.due(10, {"a"})
    # Another batch of that step.
    assert not held.due(10, {"a"})
    # A method that starts later is measured as it starts.
    assert held.due(11, {"a", "b"})
    # Terms without a wanted share are measured for the log alone.
    assert not held.due(11, {"a", "unwanted"})


def test_estimates_are_part_of_the_state():
    held, map_ = balance(a=0.5), features()
    held.measure(map_, dot(map_, 3, 4), {"a": dot(map_, 6, 8)})
    restored = balance(a=0.5)
    restored.load_state_dict(held.state_dict())
    assert restored.factor("a") == held.factor("a")
