import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from frames.augment import BevAugment
from frames.box_points import MIRRORED, box_points


def box(x: float, y: float, length: float, width: float, yaw: float) -> torch.Tensor:
    return torch.tensor([x, y, 0.0, length, width, 1.5, yaw, 0.0, 0.0])


def test_points_of_a_box_that_looks_left():
    """A box 4 long and 2 wide at (10, 5), heading +y: forward is +y, left is -x."""
    points = box_points(box(10, 5, 4, 2, math.pi / 2))
    expected = [
        *((11, 3), (9, 3), (9, 7), (11, 7)),
        (10, 5),
        *((10, 3), (9, 5), (10, 7), (11, 5)),
    ]
    assert torch.allclose(points, torch.tensor(expected).float(), atol=1e-5)


@given(
    yaw=st.floats(-3, 3),
    turn=st.floats(-3, 3),
    scale=st.floats(0.8, 1.2),
    flip_x=st.booleans(),
    flip_y=st.booleans(),
)
def test_points_are_carried_by_index(
    yaw: float, turn: float, scale: float, flip_x: bool, flip_y: bool
):
    """The augmented box's points are the box's, augmented; mirroring swaps left and right."""
    augment = BevAugment.compose(yaw=turn, scale=scale, flip_x=flip_x, flip_y=flip_y)
    original = box(7, -3, 4, 2, yaw)
    carried = augment.xy(box_points(original))
    assert augment.mirrors == (flip_x != flip_y)
    order = MIRRORED if augment.mirrors else torch.arange(9)
    assert torch.allclose(box_points(augment.boxes(original)), carried[order], atol=1e-4)


@pytest.mark.parametrize("flips", [1, 2])
def test_mirroring_twice_changes_nothing(flips: int):
    order = torch.arange(9)
    for _ in range(flips):
        order = order[MIRRORED]
    assert order.equal(torch.arange(9)) == (flips == 2)
