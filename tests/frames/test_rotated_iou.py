import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import shapely
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import Polygon
from torch import Tensor

from frames.geometry import footprint_corners
from frames.rotated_iou import (
    bev_intersection,
    bev_iou,
    bounds_meet,
    iou_3d,
    pairwise_bev_iou,
    pairwise_iou_3d,
)


def box(
    x: float = 0, y: float = 0, z: float = 0, size: tuple[float, ...] = (4, 2, 1.5), yaw: float = 0
) -> Tensor:
    return torch.tensor([x, y, z, *size, yaw], dtype=torch.float64)


def random_boxes(count: int, seed: int, *, spread: float = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(count, 7, generator=generator, dtype=torch.float64)
    low = torch.tensor([-spread, -spread, -1, 0.1, 0.1, 0.1, -4])
    high = torch.tensor([spread, spread, 1, 5, 5, 3, 4])
    return low + draws * (high - low)


def polygons(boxes: Tensor) -> list[Polygon]:
    padded = torch.nn.functional.pad(boxes, (0, 2))
    return [Polygon(corners) for corners in footprint_corners(padded).numpy()]


def shapely_areas(first: Tensor, second: Tensor) -> np.ndarray:
    pairs = zip(polygons(first), polygons(second), strict=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "invalid value encountered")
        return np.array([shapely.intersection(a, b).area for a, b in pairs])


def test_areas_are_shapelys_on_random_boxes():
    first, second = random_boxes(2000, 0), random_boxes(2000, 1)
    found = bev_intersection(first, second).numpy()
    expected = shapely_areas(first, second)
    assert 500 < np.count_nonzero(expected) < 2000
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("turn", [0.0, 1e-17, 1e-12, 1e-8, 1e-4, math.pi / 2, math.pi, 2 * math.pi])
@pytest.mark.parametrize("shift", [0.0, 1e-15, 1e-9, 1e-5])
def test_nearly_equal_boxes_have_the_area_of_either(turn: float, shift: float):
    boxes = random_boxes(200, 2)
    boxes[:, 4] = boxes[:, 3]  # square, so that a quarter turn changes nothing
    moved = boxes + torch.tensor([shift, -shift, 0, 0, 0, 0, turn], dtype=torch.float64)
    found = bev_iou(boxes, moved)
    assert (found - 1).abs().max() <= 1e-11 + 60 * shift + 2 * (turn if turn < 1e-3 else 0)
    np.testing.assert_allclose(
        bev_intersection(boxes, moved), shapely_areas(boxes, moved), atol=1e-9
    )


@given(st.floats(-7, 7))
def test_touching_boxes_share_nothing(yaw: float):
    along = torch.tensor([math.cos(yaw), math.sin(yaw)], dtype=torch.float64)
    beside, ahead = box(yaw=yaw), box(yaw=yaw)
    ahead[:2] += 4 * along
    beside[:2] += 2 * along.flip(0) * torch.tensor([-1, 1])
    for other in (ahead, beside):
        assert bev_iou(box(yaw=yaw), other).item() == pytest.approx(0, abs=1e-14)


def test_overlaps_by_hand():
    # Half a length apart: 4 of 8 + 8 - 4. A cross of 4 x 2 and 2 x 4: 4 of 12.
    assert bev_iou(box(), box(x=2)).item() == pytest.approx(1 / 3)
    assert bev_iou(box(), box(yaw=math.pi / 2)).item() == pytest.approx(1 / 3)
    # A unit square in a diamond around it, then the diamond inside a big square.
    square, diamond = box(size=(1, 1, 1)), box(size=(2, 2, 1), yaw=math.pi / 4)
    assert bev_intersection(square, diamond).item() == pytest.approx(1)
    assert bev_intersection(box(size=(3, 3, 1)), diamond).item() == pytest.approx(4)
    # An octagon: a unit square and the same turned by 45 degrees share 2 sqrt(2) - 2.
    turned = box(size=(1, 1, 1), yaw=math.pi / 4)
    assert bev_intersection(square, turned).item() == pytest.approx(2 * math.sqrt(2) - 2)


def test_heights_by_hand():
    # Half the height, the whole footprint: 1/2 of 3/2. Above each other: nothing.
    assert iou_3d(box(), box(z=0.75)).item() == pytest.approx(1 / 3)
    assert iou_3d(box(), box(z=1.5)).item() == 0
    assert iou_3d(box(), box(z=9)).item() == 0
    assert iou_3d(box(), box(size=(4, 2, 0.5))).item() == pytest.approx(1 / 3)


def test_boxes_without_area_have_no_overlap_and_no_nan():
    line, point = box(size=(4, 0, 1)), box(size=(0, 0, 0))
    for first in (line, point, box()):
        for second in (line, point):
            assert bev_iou(first, second).item() == 0
            assert iou_3d(first, second).item() == 0


def test_order_mirrors_and_place_do_not_matter():
    first, second = random_boxes(500, 3), random_boxes(500, 4)
    expected = iou_3d(first, second)
    mirror = torch.tensor([1, -1, 1, 1, 1, 1, -1])
    away = torch.tensor([3e3, -2e3, 50, 0, 0, 0, 0])
    torch.testing.assert_close(iou_3d(second, first), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(iou_3d(first * mirror, second * mirror), expected)
    torch.testing.assert_close(iou_3d(first + away, second + away), expected, atol=1e-9, rtol=0)


def test_float32_is_exact_to_its_rounding():
    first, second = random_boxes(500, 5), random_boxes(500, 6)
    found = bev_iou(first.float(), second.float()).double()
    torch.testing.assert_close(found, bev_iou(first, second), atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("pairwise", "single"), [(pairwise_bev_iou, bev_iou), (pairwise_iou_3d, iou_3d)]
)
def test_pairwise_is_every_pair(
    pairwise: Callable[[Tensor, Tensor], Tensor], single: Callable[[Tensor, Tensor], Tensor]
):
    first, second = random_boxes(40, 7, spread=8), random_boxes(30, 8, spread=8)
    found = pairwise(first, second)
    torch.testing.assert_close(found, single(first[:, None], second), atol=1e-15, rtol=0)
    assert 0 < (found > 0).sum() < found.numel() / 4
    assert pairwise(first[:0], second).shape == (0, 30)
    assert pairwise(first, second[:0]).shape == (40, 0)


def test_bounds_that_do_not_meet_mean_no_overlap():
    first, second = random_boxes(2000, 9), random_boxes(2000, 10)
    apart = ~bounds_meet(first, second)
    assert 0 < apart.sum() < len(first)
    assert bev_iou(first[apart], second[apart]).max() < 1e-15


def test_gradients_are_those_of_the_overlap():
    first, second = random_boxes(20, 13, spread=1), random_boxes(20, 14, spread=1)
    for inputs in ((first.requires_grad_(), second), (first.detach(), second.requires_grad_())):
        assert torch.autograd.gradcheck(iou_3d, inputs, eps=1e-7, atol=1e-5, fast_mode=True)


@pytest.mark.parametrize(
    "other", [box(), box(x=4), box(yaw=math.pi / 2), box(x=50), box(size=(0.0, 0.0, 0.0))]
)
def test_gradients_are_finite_where_boxes_are_equal_touch_or_have_no_volume(other: Tensor):
    for first, second in ((box(), other), (other, box())):
        moved = first.clone().requires_grad_()
        iou_3d(moved, second).backward()
        assert moved.grad is not None
        assert moved.grad.isfinite().all()


def test_velocities_behind_the_yaw_are_not_looked_at():
    first, second = random_boxes(20, 11), random_boxes(20, 12)
    moving = [torch.nn.functional.pad(boxes, (0, 2), value=5.0) for boxes in (first, second)]
    torch.testing.assert_close(iou_3d(*moving), iou_3d(first, second))
