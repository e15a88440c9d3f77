import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from frames.grid import BEVGrid

EGO = BEVGrid(x_min=-51.2, y_min=-51.2, cell_size=0.8, shape=(128, 128))
# KITTI's crop starts before the car, so its minimum is positive, and H is not W.
CROP = BEVGrid(x_min=2.0, y_min=-30.4, cell_size=0.4, shape=(152, 100))
GRIDS = st.builds(
    BEVGrid,
    x_min=st.floats(-60, 60),
    y_min=st.floats(-60, 60),
    cell_size=st.floats(0.05, 5),
    shape=st.tuples(st.integers(1, 200), st.integers(1, 200)),
)


def test_the_first_cell_by_hand():
    corner, centre = [2.0, -30.4], [2.2, -30.2]
    cells = CROP.to_cells(torch.tensor([corner, centre, [3.0, -30.0]], dtype=torch.float64))
    expected = [[-0.5, -0.5], [0, 0], [2, 0.5]]
    torch.testing.assert_close(cells, torch.tensor(expected, dtype=torch.float64))


def test_x_counts_columns_and_y_counts_rows():
    xy = torch.tensor([[2.5, -30.2], [2.2, -29.9], [41.9, 30.3]])
    assert CROP.cell_index(xy).tolist() == [1, 100, 152 * 100 - 1]
    assert CROP.num_cells == 15_200


def test_far_edges_and_symmetry():
    assert (CROP.x_max, CROP.y_max) == pytest.approx((42.0, 30.4))
    assert (CROP.symmetric_x, CROP.symmetric_y) == (False, True)
    assert EGO.symmetric_x


@given(GRIDS, st.data())
def test_a_cells_centre_lies_in_that_cell(grid: BEVGrid, data: st.DataObject):
    numbers = st.integers(0, grid.num_cells - 1)
    index = torch.tensor(data.draw(st.lists(numbers, min_size=1, max_size=5)))
    centres = grid.cell_centres(index)
    assert grid.contains(centres).all()
    assert torch.equal(grid.cell_index(centres), index)
    cells = grid.to_cells(centres)
    col, row = index % grid.shape[1], index // grid.shape[1]
    torch.testing.assert_close(cells, torch.stack([col, row], -1).float(), atol=2e-2, rtol=0)


@given(GRIDS, st.floats(-80, 80), st.floats(-80, 80))
def test_what_it_contains_is_what_the_metres_say(grid: BEVGrid, x: float, y: float):
    xy = torch.tensor([[x, y]], dtype=torch.float64)
    rows, cols = grid.shape
    inside = 0 <= (x - grid.x_min) / grid.cell_size < cols
    inside &= 0 <= (y - grid.y_min) / grid.cell_size < rows
    edge = (grid.to_cells(xy) + 0.5).frac().abs()
    if (edge > 1e-6).all() and (edge < 1 - 1e-6).all():
        assert bool(grid.contains(xy)) == inside
    if not bool(grid.contains(xy)):
        assert int(grid.cell_index(xy)) == 0


def test_the_lower_edge_is_in_and_the_upper_out():
    grid = BEVGrid(x_min=1.0, y_min=0.0, cell_size=0.5, shape=(2, 4))
    xy = torch.tensor([[1.0, 0.0], [3.0, 0.5], [2.0, 1.0], [2.99, 0.99]])
    assert grid.contains(xy).tolist() == [True, False, False, True]


@pytest.mark.parametrize("grid", [EGO, CROP])
def test_unit_coordinates_sample_the_cell_they_name(grid: BEVGrid):
    """``grid_sample`` at a cell's centre gives back that cell."""
    number = torch.arange(grid.num_cells, dtype=torch.float64)
    index = torch.tensor([0, 1, grid.shape[1], grid.num_cells // 2, grid.num_cells - 1])
    centres = grid.cell_centres(index).double()
    unit = grid.to_unit(centres)[None, None]
    sampled = F.grid_sample(number.view(1, 1, *grid.shape), unit, align_corners=False)
    torch.testing.assert_close(sampled.flatten(), index.double(), atol=0.2, rtol=0)


def test_a_grid_needs_cells_and_its_own_frame():
    with pytest.raises(ValidationError, match="cell_size"):
        BEVGrid(x_min=0, y_min=0, cell_size=0, shape=(2, 2))
    with pytest.raises(ValidationError, match="shape"):
        BEVGrid(x_min=0, y_min=0, cell_size=1, shape=(0, 2))
    with pytest.raises(ValidationError, match="frame"):
        BEVGrid.model_validate(EGO.model_dump() | {"frame": "lidar"})
