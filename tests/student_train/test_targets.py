"""Cached rows carried into an augmented frame."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from frames.augment import BevAugment
from frames.boxes import BoxBatch, Boxes3D
from frames.cell_masks import FootprintMask, OriginMask, RandomMask, foreground_cells
from frames.heatmap import CENTER_HEAD, UNIDISTILL, center_heatmap
from nets.read_at import read_at
from store.rows import CachedRow
from store.schema import Need, Places, Target
from student_train.targets import FrameTargets, frame_targets, pad_targets
from tests.student_train.method_suite import GRID, some_boxes

BOXES = Need(Target.BOXES, Places.BOXES)
HIGH = Need(Target.BEV_HIGH, Places.CELLS)
LOGIT = Need(Target.HEATMAP_LOGIT, Places.CELLS)
MAP = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(0))


def row_of(gt: Boxes3D, *, dense: bool = False) -> CachedRow:
    """A row whose teacher repeats the ground truth, and whose maps are ``MAP``."""
    cells = foreground_cells(gt, GRID)
    at_cells = MAP if dense else MAP.flatten(1)[:, cells].T
    values, folder = gt.values.numpy(), "" if dense else "cells/"
    return CachedRow(
        token="frame",
        view=0,
        augment=BevAugment.identity(),
        gt=gt,
        arrays={
            "boxes/centre": values[:, :3],
            "boxes/size": values[:, 3:6],
            "boxes/yaw": values[:, 6],
            "boxes/velocity": values[:, 7:],
            "boxes/score": np.linspace(0.1, 0.9, len(gt), dtype=np.float32),
            "boxes/label": np.where(np.arange(len(gt)) == 1, -1, gt.labels.numpy()),
            "cells/index": cells.numpy().astype(np.int32),
            f"{folder}bev_high": at_cells.numpy().copy(),
            f"{folder}heatmap_logit": at_cells.numpy().copy(),
        },
    )


def given_targets(gt: Boxes3D, augment: BevAugment, *, dense: bool = False) -> FrameTargets:
    return frame_targets(row_of(gt, dense=dense), [BOXES, HIGH], GRID, augment)


def tensor(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


@pytest.mark.parametrize(("flip_x", "flip_y"), [(True, False), (False, True), (True, True)])
def test_a_flip_takes_cells_to_mirrored_cells(flip_x: bool, flip_y: bool):
    gt = some_boxes(1)
    found = given_targets(gt, BevAugment.compose(flip_x=flip_x, flip_y=flip_y))
    row, col = foreground_cells(gt, GRID) // 16, foreground_cells(gt, GRID) % 16
    mirrored = (15 - row if flip_y else row) * 16 + (15 - col if flip_x else col)
    xy = tensor(found.cells)
    assert xy.equal(GRID.cell_centres(mirrored))
    # So a student whose map is the teacher's, mirrored, agrees at every cell.
    axes = [axis for axis, flip in ((2, flip_x), (1, flip_y)) if flip]
    student = read_at(MAP.flip(axes)[None], GRID.to_unit(xy)[None])[0]
    assert torch.allclose(student, found.at_cells[Target.BEV_HIGH], atol=1e-5)


@given(
    yaw=st.floats(-math.pi, math.pi),
    scale=st.floats(0.9, 1.1),
    flip_x=st.booleans(),
    flip_y=st.booleans(),
)
def test_cells_and_boxes_move_together(yaw: float, scale: float, flip_x: bool, flip_y: bool):
    """Before and after, a box's centre lies in the same place between the same cells."""
    gt = some_boxes(2)
    augment = BevAugment.compose(yaw=yaw, scale=scale, flip_x=flip_x, flip_y=flip_y)
    still, moved = given_targets(gt, BevAugment.identity()), given_targets(gt, augment)
    before = torch.cdist(tensor(still.boxes)[:, :2], tensor(still.cells))
    after = torch.cdist(tensor(moved.boxes)[:, :2], tensor(moved.cells))
    assert torch.allclose(after, before * scale, atol=1e-3)


def test_the_teachers_boxes_are_transformed_and_its_scores_are_not():
    gt = some_boxes(1)
    turn = BevAugment.compose(yaw=math.pi / 2, flip_y=True)
    found = given_targets(gt, turn)
    x, y, z, length, width, height, yaw, vx, vy = gt.values.unbind(1)
    # A quarter turn takes (x, y) to (-y, x), the mirror then negates y; the heading follows.
    heading = -(yaw + math.pi / 2)
    boxes = tensor(found.boxes)
    expected = torch.stack([-y, -x, z, length, width, height, heading, -vy, -vx], dim=1)
    assert torch.allclose(boxes[:, :6], expected[:, :6], atol=1e-5)
    assert torch.allclose(boxes[:, 7:], expected[:, 7:], atol=1e-5)
    assert torch.allclose((boxes[:, 6] - heading).cos(), torch.ones(3), atol=1e-5)
    assert tensor(found.scores).tolist() == pytest.approx([0.1, 0.5, 0.9])
    assert tensor(found.answered).tolist() == [True, False, True]


def test_weights_are_the_ground_truths_heatmap():
    gt = some_boxes(3)
    found = given_targets(gt, BevAugment.compose(flip_x=True))
    heatmap = center_heatmap(BoxBatch.pad([gt]), GRID, 10)[0].amax(0).flatten()
    weight = found.cell_weight[CENTER_HEAD]
    assert weight.equal(heatmap[foreground_cells(gt, GRID)])
    assert (weight > 0).all()
    assert (weight == 1).sum() == 3


def test_each_mask_has_its_own_weights():
    """At the same cells; those of another mask weigh nothing, nor do any without a Gaussian."""
    gt = some_boxes(3)
    random = RandomMask(count=40)
    masks = (CENTER_HEAD, UNIDISTILL, OriginMask(), FootprintMask(), random)
    needs = [Need(Target.BEV_HIGH, Places.CELLS, mask=mask) for mask in masks]
    found = frame_targets(row_of(gt), needs, GRID, BevAugment.identity())
    cells = foreground_cells(gt, GRID)
    assert found.cell_weight.keys() == {CENTER_HEAD, UNIDISTILL, OriginMask(), random}
    for mask in (CENTER_HEAD, UNIDISTILL):
        heatmap = center_heatmap(BoxBatch.pad([gt]), GRID, 10, mask)[0].amax(0).flatten()
        assert found.cell_weight[mask].equal(heatmap[cells])
    assert (found.cell_weight[UNIDISTILL] > 0).sum() == 3
    drawn = foreground_cells(gt, GRID, [random], "frame").tolist()
    assert found.cell_weight[random].tolist() == [float(c in drawn) for c in cells.tolist()]
    assert found.cell_weight[random].any()
    origin = found.cell_weight[OriginMask()]
    assert cells[origin > 0].tolist() == [cell for cell in cells.tolist() if cell == 8 * 16 + 8]


def test_the_origins_cell_moves_with_the_frame():
    """Under a shift it is not the augmented frame's: what the teacher says there is not known."""
    needs = [Need(Target.BEV_HIGH, Places.CELLS, mask=OriginMask())]
    row = row_of(Boxes3D(torch.tensor([[0.2, 0.7, 0, 1, 1, 1, 0, 0, 0]]), torch.tensor([0])))
    found = frame_targets(row, needs, GRID, BevAugment.compose(flip_y=True, shift=(1.25, -2.0)))
    at = found.cell_weight[OriginMask()] > 0
    # Its centre (0.5, 0.5), mirrored to (0.5, -0.5), and shifted.
    assert tensor(found.cells)[at].tolist() == [[1.75, -2.5]]


def test_cells_that_leave_the_grid_weigh_nothing():
    corner = Boxes3D(torch.tensor([[7.5, 7.5, 0, 1, 1, 1, 0, 0, 0]]), torch.tensor([0]))
    found = given_targets(corner, BevAugment.compose(scale=1.1))
    xy, weight = tensor(found.cells), found.cell_weight[CENTER_HEAD]
    # Rows and columns 13, 14, 15 are centred at 5.5, 6.5, 7.5 m; the last goes to 8.25 m, off.
    assert len(xy) == 9
    assert ((weight > 0) == (xy < 8).all(1)).all()
    assert (weight > 0).sum() == 4


def test_dense_and_foreground_rows_give_the_same():
    gt = some_boxes(4)
    augment = BevAugment.compose(yaw=0.3)
    sparse, dense = given_targets(gt, augment), given_targets(gt, augment, dense=True)
    assert dense.at_cells[Target.BEV_HIGH].equal(sparse.at_cells[Target.BEV_HIGH])
    for k, cell in enumerate(foreground_cells(gt, GRID).tolist()):
        assert dense.at_cells[Target.BEV_HIGH][k].equal(MAP[:, cell // 16, cell % 16])


def test_only_what_is_needed_is_read():
    row = row_of(some_boxes(1))
    boxes = frame_targets(row, [BOXES], GRID, BevAugment.identity())
    assert boxes.cells is None
    assert not boxes.at_cells
    cells = frame_targets(row, [HIGH, LOGIT], GRID, BevAugment.identity())
    assert cells.boxes is None
    assert set(cells.at_cells) == {Target.BEV_HIGH, Target.HEATMAP_LOGIT}


def test_padding_says_nothing():
    frames = [some_boxes(1, 3), Boxes3D.empty(), some_boxes(2, 5)]
    singles = [given_targets(gt, BevAugment.identity()) for gt in frames]
    batch = pad_targets(singles)
    boxes, cells = tensor(batch.boxes), tensor(batch.cells)
    assert boxes.shape == BoxBatch.pad(frames).values.shape == (3, 5, 9)
    assert cells.shape[1] == max(len(tensor(single.cells)) for single in singles)
    for b, single in enumerate(singles):
        own = len(tensor(single.boxes))
        assert boxes[b, :own].equal(tensor(single.boxes))
        assert not boxes[b, own:].any()
        assert not tensor(batch.answered)[b, own:].any()
        own = len(tensor(single.cells))
        assert cells[b, :own].equal(tensor(single.cells))
        assert not batch.cell_weight[CENTER_HEAD][b, own:].any()
        assert not batch.at_cells[Target.BEV_HIGH][b, own:].any()


def test_no_cache_gives_no_targets():
    batch = pad_targets([FrameTargets(), FrameTargets()])
    assert batch.boxes is None
    assert batch.cells is None
    assert not batch.at_cells
