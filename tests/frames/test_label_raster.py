"""The painted label map against hand cases and a slow, literal reading of scikit-image's rule."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frames.boxes import BoxBatch, Boxes3D
from frames.grid import BEVGrid
from frames.label_raster import painted_boxes

GRID = BEVGrid(x_min=-51.2, y_min=-51.2, cell_size=0.8, shape=(128, 128))
SMALL = BEVGrid(x_min=-4.0, y_min=-3.0, cell_size=1.0, shape=(6, 8))
ORDER = (0, 1, 2)
# Mean sizes of nuScenes' classes, length and width in metres.
CAR, BUS, PEDESTRIAN, CONE, BARRIER = (
    (4.6, 1.95),
    (11.1, 2.9),
    (0.73, 0.67),
    (0.41, 0.41),
    (0.5, 2.5),
)


def boxes(
    *rows: tuple[float, float, float, float, float], labels: list[int] | None = None
) -> Boxes3D:
    """x y l w yaw each."""
    values = torch.zeros(len(rows), 9)
    for value, (x, y, length, width, yaw) in zip(values, rows, strict=True):
        value[:7] = torch.tensor([x, y, 1.0, length, width, 1.5, yaw])
    return Boxes3D(values, torch.tensor(labels or [0] * len(rows), dtype=torch.int64))


def paint(truth: Boxes3D, grid: BEVGrid = GRID, order: tuple[int, ...] = ORDER) -> torch.Tensor:
    return painted_boxes(BoxBatch.pad([truth]), grid, order)[0]


def cells(truth: Boxes3D, grid: BEVGrid = GRID) -> set[tuple[int, int]]:
    """(row, col) of what is painted."""
    return {(row, col) for row, col in (paint(truth, grid) >= 0).nonzero().tolist()}


@pytest.mark.parametrize(
    ("size", "xy", "yaw", "count"),
    [
        (CAR, (0.0, 0.0), 0.0, 8),
        (CAR, (0.0, 0.0), math.pi / 2, 8),
        # Along y it covers 1.6 cells: three, where its centre is a cell's.
        (BARRIER, (0.0, 0.4), 0.0, 6),
        (BUS, (0.1, 0.3), math.pi / 4, 17),
    ],
)
def test_typical_boxes(size: tuple[float, float], xy: tuple[float, float], yaw: float, count: int):
    """The released code's counts; they depend on where in its cell a centre lies."""
    assert len(cells(boxes((*xy, *size, yaw)))) == count


@pytest.mark.parametrize("size", [PEDESTRIAN, CONE])
def test_small_boxes_between_two_cells(size: tuple[float, float]):
    assert cells(boxes((0.0, 0.4, *size, 0.0))) == {(64, 63), (64, 64)}
    assert cells(boxes((0.4, 0.4, *size, 0.0))) == {(64, 64)}


def test_a_car_by_hand():
    """Corners 64 + 4.6/3.2 = 65.4 and 62.6 along x, 64.6 and 63.4 along y, all cut off."""
    expected = {(row, col) for row in (63, 64) for col in (62, 63, 64, 65)}
    assert cells(boxes((0.0, 0.0, *CAR, 0.0))) == expected


def test_without_area_only_the_vertices_are_kept():
    """Length 8 of cells of 1 m: columns 2 to 6, both sides of the box in row 3."""
    assert cells(boxes((0.5, 0.5, 8.0, 1.0, 0.0)), SMALL) == {(3, 2), (3, 6)}
    # Half a metre aside the sides fall in rows 2 and 3: five cells each.
    assert len(cells(boxes((0.5, 0.0, 8.0, 1.0, 0.0)), SMALL)) == 10


def test_negative_cells_are_dropped():
    """Columns -1.5 cut off to -1, and 1: what is at -1 is gone, 0 and 1 stay."""
    assert cells(boxes((-4.25, 0.0, 5.0, 3.0, 0.0)), SMALL) == {
        (row, col) for row in (2, 3) for col in (0, 1)
    }
    assert cells(boxes((-20.0, 0.0, 5.0, 3.0, 0.0)), SMALL) == set()


def test_cutting_off_towards_zero_lets_a_box_outside_in():
    """Its columns -0.9 to -0.1 are both cut off to 0."""
    assert cells(boxes((-4.5, 0.5, 1.6, 0.4, 0.0)), SMALL) == {(3, 0)}


def test_what_is_beyond_the_far_edges_lands_on_them():
    assert cells(boxes((30.0, 0.0, 5.0, 3.0, 0.0)), SMALL) == {(2, 7), (3, 7)}
    assert cells(boxes((30.0, 30.0, 5.0, 3.0, 0.0)), SMALL) == {(5, 7)}
    # Of a box across the edge, columns 7 and 8 share the last.
    assert cells(boxes((4.0, 0.0, 4.0, 3.0, 0.0)), SMALL) == {(2, 7), (3, 7)}


def test_later_classes_and_later_annotations_cover_earlier_ones():
    """The same footprint thrice; class 1 is painted last, whatever the labels' numbers."""
    same = [(0.0, 0.0, *CAR, 0.0)] * 3
    assert paint(boxes(*same, labels=[0, 1, 2]), order=(2, 0, 1))[64, 64] == 1
    assert paint(boxes(*same, labels=[0, 2, 0]), order=(2, 0, 1))[64, 64] == 2
    assert paint(boxes(*same, labels=[2, 2, 0]), order=(0, 1, 2))[64, 64] == 1


@pytest.mark.parametrize("size", [(0.0, 2.0), (2.0, 0.0), (-1.0, 2.0)])
def test_a_box_without_size_is_not_painted(size: tuple[float, float]):
    assert cells(boxes((0.0, 0.0, *size, 0.0))) == set()


def test_padding_and_empty_frames_paint_nothing():
    one = boxes((0.0, 0.0, *CAR, 0.0))
    painted = painted_boxes(BoxBatch.pad([Boxes3D.empty(), one]), GRID, ORDER)
    assert (painted[0] == -1).all()
    assert painted[1].equal(paint(one))
    assert (paint(Boxes3D.empty()) == -1).all()


def keeps(polygon: list[tuple[int, int]], col: int, row: int) -> bool:
    """scikit-image's point in polygon (O'Rourke, Computational Geometry in C, 7.4), in words:
    a vertex; or an odd number of crossings by a ray to the right, or by one to the left.
    """
    right = left = 0
    for (xa, ya), (xb, yb) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        if (col, row) in ((xa, ya), (xb, yb)):
            return True
        if ya == yb:
            continue
        meets = xa + (row - ya) * (xb - xa) / (yb - ya)
        if min(ya, yb) <= row < max(ya, yb) and meets > col:
            right += 1
        if min(ya, yb) < row <= max(ya, yb) and meets < col:
            left += 1
    return right % 2 == 1 or left % 2 == 1


def literal(truth: Boxes3D, grid: BEVGrid, order: tuple[int, ...]) -> list[list[int]]:
    """Box by box, cell by cell."""
    rows, cols = grid.shape
    shown = [[-1] * cols for _ in range(rows)]
    for label in order:
        for k, (x, y, _, length, width, _, yaw, *_) in enumerate(truth.values.tolist()):
            if truth.labels[k] != label or length <= 0 or width <= 0:
                continue
            polygon = []
            for u, v in ((1, 1), (1, -1), (-1, -1), (-1, 1)):
                cx = x + u * length / 4 * math.cos(yaw) - v * width / 4 * math.sin(yaw)
                cy = y + u * length / 4 * math.sin(yaw) + v * width / 4 * math.cos(yaw)
                col, row = (cx - grid.x_min) / grid.cell_size, (cy - grid.y_min) / grid.cell_size
                polygon.append((int(col), int(row)))
            for row in range(max(row for _, row in polygon) + 1):
                for col in range(max(col for col, _ in polygon) + 1):
                    if keeps(polygon, col, row):
                        shown[min(row, rows - 1)][min(col, cols - 1)] = k
    return shown


@st.composite
def ground_truths(draw: st.DrawFn) -> Boxes3D:
    number = st.floats(0, 1, width=32)
    rows = [
        (
            -7 + 14 * draw(number),
            -6 + 12 * draw(number),
            0.2 + 9 * draw(number),
            0.2 + 4 * draw(number),
            draw(st.sampled_from([0.0, math.pi / 2, 0.4, -2.5]) | st.floats(-3, 3, width=32)),
        )
        for _ in range(draw(st.integers(0, 5)))
    ]
    return boxes(*rows, labels=[draw(st.integers(0, 2)) for _ in rows])


@settings(max_examples=150)
@given(truth=ground_truths(), order=st.permutations(ORDER))
def test_it_is_the_literal_reading(truth: Boxes3D, order: list[int]):
    assert paint(truth, SMALL, tuple(order)).tolist() == literal(truth, SMALL, tuple(order))
