import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from frames.boxes import BoxBatch, Boxes3D
from frames.cell_masks import (
    CellMask,
    FootprintMask,
    OriginMask,
    RandomMask,
    coarse_foreground_cells,
    foreground_cells,
)
from frames.grid import BEVGrid
from frames.heatmap import GaussianMask, center_heatmap

GRID = BEVGrid(x_min=0.0, y_min=0.0, cell_size=1.0, shape=(8, 10))


def boxes(*values: tuple[float, float, float, float, float]) -> Boxes3D:
    """Of (x, y, length, width, yaw)."""
    rows = [[x, y, 0, length, width, 1, yaw, 0, 0] for x, y, length, width, yaw in values]
    return Boxes3D(torch.tensor(rows).float(), torch.zeros(len(rows), dtype=torch.int64))


def test_a_gaussian_of_radius_0_is_one_cell():
    small = GaussianMask(min_overlap=0.7, min_radius=0)
    assert foreground_cells(boxes((3.2, 2.9, 1, 1, 0)), GRID, [small]).tolist() == [2 * 10 + 3]


def test_a_footprint_holds_the_centres_inside():
    """From x 2 to 5 and y 2 to 4: centres 2.5, 3.5, 4.5 by 2.5, 3.5."""
    inside = foreground_cells(boxes((3.5, 3, 3, 2, 0)), GRID, [FootprintMask()])
    assert inside.tolist() == [22, 23, 24, 32, 33, 34]


def test_a_turned_footprint_and_its_margin():
    """A quarter turn swaps the sides; half a metre more reaches one centre further each way."""
    turned = boxes((3.5, 3.5, 3, 1, torch.pi / 2))
    assert foreground_cells(turned, GRID, [FootprintMask()]).tolist() == [23, 33, 43]
    wider = foreground_cells(turned, GRID, [FootprintMask(margin=0.51)])
    assert wider.tolist() == [row * 10 + col for row in range(1, 6) for col in (2, 3, 4)]


def test_random_cells_belong_to_their_frame():
    mask = RandomMask(count=7)
    one, again, other = (
        foreground_cells(Boxes3D.empty(), GRID, [mask], token) for token in ("a", "a", "b")
    )
    assert len(one) == 7
    assert one.equal(again)
    assert not one.equal(other)
    assert len(foreground_cells(Boxes3D.empty(), GRID, [RandomMask(count=999)], "a")) == 80


def test_the_origin_has_one_cell_if_it_is_on_the_grid():
    around = BEVGrid(x_min=-3.0, y_min=-2.0, cell_size=1.0, shape=(8, 10))
    assert foreground_cells(Boxes3D.empty(), around, [OriginMask()]).tolist() == [23]
    ahead = BEVGrid(x_min=1.0, y_min=-2.0, cell_size=1.0, shape=(8, 10))
    assert len(foreground_cells(Boxes3D.empty(), ahead, [OriginMask()])) == 0


def test_masks_are_united_without_repetition():
    box = boxes((3.5, 3.5, 3, 3, 0))
    masks: list[CellMask] = [GaussianMask(), FootprintMask(), RandomMask(count=10)]
    together = set(foreground_cells(box, GRID, masks, "a").tolist())
    each = [set(foreground_cells(box, GRID, [mask], "a").tolist()) for mask in masks]
    assert together == each[0] | each[1] | each[2]
    assert foreground_cells(box, GRID, [], "a").shape == (0,)


def test_coarse_cells_read_a_foreground_cell():
    """Rows are read at 0, 2 1/3, 4 2/3, 7 of 8, columns at 0, 2.25, 4.5, 6.75, 9 of 10."""
    small = GaussianMask(min_overlap=0.7, min_radius=0)
    assert coarse_foreground_cells(boxes((3.2, 2.9, 1, 1, 0)), GRID, [small]).tolist() == [
        1 * 5 + 1
    ]
    # Row 1 lies between those that are read.
    assert coarse_foreground_cells(boxes((3.2, 1.5, 1, 1, 0)), GRID, [small]).tolist() == []
    assert coarse_foreground_cells(Boxes3D.empty(), GRID).tolist() == []


@given(
    size=st.sampled_from([(16, 12), (20, 34), (40, 40)]),
    centres=st.lists(st.tuples(st.floats(-22, 22), st.floats(-22, 22)), min_size=1, max_size=4),
    length=st.floats(0.3, 60),
    width=st.floats(0.3, 30),
)
def test_coarse_cells_are_the_support_of_the_resized_mask(
    size: tuple[int, int], centres: list[tuple[float, float]], length: float, width: float
):
    """LabelDistill's M1: no cell with a weight is missing, none without one is kept."""
    grid = BEVGrid(x_min=-size[1] / 2, y_min=-size[0] / 2, cell_size=1.0, shape=size)
    truth = boxes(*[(x, y, length, width, 0) for x, y in centres])
    mask = center_heatmap(BoxBatch.pad([truth]), grid, 1).sum(1, keepdim=True)
    half = (size[0] // 2, size[1] // 2)
    resized = F.interpolate(mask, half, mode="bilinear", align_corners=True)
    weighted = resized.flatten().nonzero().squeeze(1)
    assert coarse_foreground_cells(truth, grid).equal(weighted)


def test_a_mask_drawn_on_the_coarser_grid_would_miss_cells_of_a_large_object():
    grid = BEVGrid(x_min=-20.0, y_min=-20.0, cell_size=1.0, shape=(40, 40))
    large = boxes((0.5, 0.5, 20, 8, 0))
    drawn = set(foreground_cells(large, grid.coarser).tolist())
    assert set(coarse_foreground_cells(large, grid).tolist()) - drawn
