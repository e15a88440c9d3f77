import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from frames.augment import BevAugment
from frames.boxes import BoxBatch, Boxes3D
from frames.cell_masks import foreground_cells
from frames.grid import BEVGrid
from frames.heatmap import (
    GaussianMask,
    center_heatmap,
    gaussian_radius,
    gaussians,
    inside_gaussians,
    on_grid,
)

GRID = BEVGrid(x_min=-51.2, y_min=-51.2, cell_size=0.8, shape=(128, 128))
SMALL = BEVGrid(x_min=-8.0, y_min=-8.0, cell_size=1.0, shape=(16, 16))


def boxes(*rows: tuple[float, float, float, float, int]) -> Boxes3D:
    """Boxes from (x, y, l, w, label)."""
    values = torch.tensor([[x, y, 0, length, w, 1.5, 0, 0, 0] for x, y, length, w, _ in rows])
    return Boxes3D(values.float().reshape(-1, 9), torch.tensor([row[4] for row in rows]).long())


def test_radii_of_the_mean_class_sizes():
    # Printed by mmdet3d v1.0.0rc4 for these sizes.
    sizes = torch.tensor([[4.63, 1.97], [10.5, 2.94], [0.5, 2.53], [0.73, 0.67]]) / 0.8
    expected = [1.58, 2.81, 0.55, 0.38]
    assert gaussian_radius(*sizes.T).tolist() == pytest.approx(expected, abs=0.02)


def test_kernel_of_radius_two():
    heatmap = center_heatmap(BoxBatch.pad([boxes((10, -3, 4.6, 1.9, 0))]), GRID, 10)
    assert heatmap.sum().item() == pytest.approx(4.350453, abs=1e-5)
    assert heatmap[heatmap > 0].min().item() == pytest.approx(3.15e-3, abs=1e-5)
    # Row = y: -3 m is cell floor(48.2 / 0.8) = 60; column = x: 10 m is cell 76.
    assert heatmap[0, 0, 60, 76] == 1
    assert (heatmap == 1).sum() == 1


def test_close_objects_merge_by_maximum_and_classes_stay_apart():
    pair = BoxBatch.pad([boxes((0.5, 0.5, 1, 1, 0), (2.5, 0.5, 1, 1, 0), (0.5, 0.5, 1, 1, 3))])
    heatmap = center_heatmap(pair, SMALL, 4)
    assert heatmap[0, 0, 8, 9].item() == pytest.approx(math.exp(-1 / (2 * (5 / 6) ** 2)))
    assert heatmap[0, 3].sum().item() == pytest.approx(4.350453, abs=1e-5)


def test_off_grid_and_padding_leave_no_trace():
    batch = BoxBatch.pad([boxes((9.0, 0, 1, 1, 0)), boxes((0, 0, 1, 1, 0), (1, 1, 1, 1, 0))])
    heatmap = center_heatmap(batch, SMALL, 1)
    assert heatmap[0].sum() == 0
    assert on_grid(batch, SMALL).tolist() == [[False, False], [True, True]]


@pytest.mark.parametrize("mask", [GaussianMask(), GaussianMask(min_overlap=0.7, min_radius=0)])
def test_the_windows_are_where_the_gaussians_are_above_zero(mask: GaussianMask):
    torch.manual_seed(0)
    frames = []
    for count in (0, 1, 7, 30):
        values = torch.zeros(count, 9)
        # Some lie off the grid; some are larger than it.
        values[:, :2] = torch.rand(count, 2) * 20 - 10
        values[:, 3:5] = torch.rand(count, 2) ** 4 * 40
        frames.append(Boxes3D(values, torch.zeros(count, dtype=torch.int64)))
    batch = BoxBatch.pad(frames)
    assert torch.equal(
        inside_gaussians(batch, SMALL, mask), gaussians(batch, SMALL, mask).sum(1) > 0
    )


def test_foreground_is_where_the_heatmap_is():
    some = boxes((-7.9, 7.9, 1, 1, 2), (3, 3, 9, 2.5, 0), (3, 3, 1, 1, 1))
    heatmap = center_heatmap(BoxBatch.pad([some]), SMALL, 3)
    expected = heatmap[0].amax(0).flatten().nonzero().squeeze(1)
    assert torch.equal(foreground_cells(some, SMALL), expected)
    assert foreground_cells(Boxes3D.empty(), SMALL).shape == (0,)


@given(x=st.integers(-7, 7), y=st.integers(-7, 7))
def test_flips_mirror_the_map(x: int, y: int):
    some = boxes((x + 0.3, y + 0.2, 4, 2, 0))
    flip = BevAugment.compose(flip_y=True)
    flipped = Boxes3D(flip.boxes(some.values), some.labels)
    straight = center_heatmap(BoxBatch.pad([some]), SMALL, 1)
    mirrored = center_heatmap(BoxBatch.pad([flipped]), SMALL, 1)
    assert torch.equal(straight.flip(2), mirrored)
