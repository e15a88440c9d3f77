"""The nine nearest corners, worked by hand and against the assigner's rules in slow loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frames.boxes import BoxBatch, Boxes3D
from frames.grid import BEVGrid
from nets.center_head import CenterHeadConfig
from nets.nearest_cells import PositiveCells, nearest_cells

GRID = BEVGrid(x_min=-5.0, y_min=-3.0, cell_size=1.0, shape=(6, 10))
CLASS_TASK = torch.tensor(CenterHeadConfig().class_task)
CAR, TRUCK, CONSTRUCTION = 0, 1, 2


def batch(*frames: list[tuple[float, float, int]]) -> BoxBatch:
    """Boxes given by their centre in cells (col, row) from the outer corner, and their class."""
    return BoxBatch.pad(
        [
            Boxes3D(
                torch.tensor([[c - 5, r - 3, 0, 2, 1, 1, 0, 0, 0] for c, r, _ in objects])
                .reshape(-1, 9)
                .float(),
                torch.tensor([label for *_, label in objects]).long(),
            )
            for objects in frames
        ]
    )


def cells_of(found: PositiveCells, frame: int, task: int, box: int) -> set[tuple[int, int]]:
    """(row, col) of an object's cells."""
    own = (found.frame == frame) & (found.task == task) & (found.box == box)
    return {divmod(cell, 10) for cell in found.cell[own].tolist()}


def test_nine_corners_around_a_centre():
    """At (4.1, 2.9), near the corner (4, 3), its 3 x 3 neighbours are the nine."""
    found = nearest_cells(batch([(4.1, 2.9, CAR)]), GRID, CLASS_TASK, 9)
    assert cells_of(found, 0, 0, 0) == {(r, c) for r in (2, 3, 4) for c in (3, 4, 5)}
    assert len(found.cell) == 9


def test_a_centre_between_corners_prefers_the_near_side():
    """At (4.5 + e, 2.5 + e) four corners are nearest, then two each on the sides towards (5, 3).

    Squared distances from (4.6, 2.6): (4|5, 2|3) up to 0.72; (6, 3) 2.12, (6, 2) 2.32,
    (5, 4) 2.12, (4, 4) 2.32, then (3, 3) 2.72 and (5, 1) 2.72, (6, 4) 3.92.
    """
    found = nearest_cells(batch([(4.6, 2.6, CAR)]), GRID, CLASS_TASK, 8)
    four = {(2, 4), (2, 5), (3, 4), (3, 5)}
    assert cells_of(found, 0, 0, 0) == four | {(3, 6), (2, 6), (4, 5), (4, 4)}


def test_at_the_grids_corner_the_nine_lie_on_the_grid():
    found = nearest_cells(batch([(0.1, 0.1, CAR)]), GRID, CLASS_TASK, 9)
    assert cells_of(found, 0, 0, 0) == {(r, c) for r in range(3) for c in range(3)}


def test_a_cell_belongs_to_the_nearest_object_of_its_task():
    """Two trucks at columns 4 and 5, row 3: 4 x 3 cells, columns 3 and 4 nearer to the first."""
    objects = [(4.0, 3.0, TRUCK), (5.0, 3.0, CONSTRUCTION), (4.0, 3.0, CAR)]
    found = nearest_cells(batch(objects), GRID, CLASS_TASK, 9)
    assert cells_of(found, 0, 1, 0) == {(r, c) for r in (2, 3, 4) for c in (3, 4)}
    assert cells_of(found, 0, 1, 1) == {(r, c) for r in (2, 3, 4) for c in (5, 6)}
    assert len(cells_of(found, 0, 0, 2)) == 9, "the car is of another task"
    heatmap = found.heatmap(batch(objects), GRID, 10)
    assert heatmap.sum((0, 2, 3)).tolist() == [9, 6, 6, 0, 0, 0, 0, 0, 0, 0]
    assert heatmap[0, CONSTRUCTION, 3, 5] == 1
    assert heatmap[0, TRUCK, 3, 5] == 0


def test_padding_and_objects_off_the_grid_have_no_cells():
    found = nearest_cells(batch([(4.4, 2.6, CAR)], [(11.0, 3.0, CAR)], []), GRID, CLASS_TASK, 9)
    assert found.frame.tolist() == [0] * 9


@pytest.mark.parametrize("count", [9, 100])
def test_no_more_cells_than_there_are(count: int):
    tiny = BEVGrid(x_min=-1.0, y_min=-1.0, cell_size=1.0, shape=(2, 2))
    box = Boxes3D(torch.tensor([[0.2, 0.3, 0, 1, 1, 1, 0, 0, 0]]), torch.tensor([CAR]))
    found = nearest_cells(BoxBatch.pad([box]), tiny, CLASS_TASK, count)
    assert found.cell.tolist() == [0, 1, 2, 3]


@settings(max_examples=60, deadline=None)
@given(
    frames=st.lists(
        st.lists(st.tuples(st.floats(-2, 12), st.floats(-2, 8), st.integers(0, 9)), max_size=6),
        min_size=1,
        max_size=3,
    )
)
def test_it_equals_the_rules_in_loops(frames: list[list[tuple[float, float, int]]]):
    boxes = batch(*frames)
    found = nearest_cells(boxes, GRID, CLASS_TASK, 9)
    got = list(
        zip(*(getattr(found, n).tolist() for n in ("frame", "task", "cell", "box")), strict=True)
    )
    expected = []
    for frame, objects in enumerate(frames):
        for task in range(6):
            own = [
                index
                for index, (_, _, label) in enumerate(objects)
                if CLASS_TASK[label] == task and bool(GRID.contains(boxes.values[frame, index, :2]))
            ]
            expected += [(frame, task, *pair) for pair in owners(boxes.values[frame], own)]
    assert [g[:3] for g in got] == [e[:3] for e in expected]
    for (frame, _, cell, box), (*_, other) in zip(got, expected, strict=True):
        # Equally near objects may share a cell either way.
        mine, theirs = (distance(boxes.values[frame, b], cell) for b in (box, other))
        assert mine == pytest.approx(theirs, abs=1e-5)


def distance(box: torch.Tensor, cell: int) -> float:
    row, col = divmod(cell, 10)
    return float((box[0] + 5 - col) ** 2 + (box[1] + 3 - row) ** 2)


def owners(values: torch.Tensor, own: list[int]) -> list[tuple[int, int]]:
    """Each positive cell and its object, cells ascending."""
    positive: set[int] = set()
    for index in own:
        far = torch.tensor([distance(values[index], cell) for cell in range(60)])
        positive |= set(far.topk(9, largest=False).indices.tolist())
    return [(cell, min(own, key=lambda i: distance(values[i], cell))) for cell in sorted(positive)]
