"""STXD's response read where the student answers: at the true boxes' centre cells."""

from dataclasses import replace

import pytest
import torch

from frames.augment import BevAugment
from frames.boxes import BoxBatch, Boxes3D
from frames.heatmap import CENTER_HEAD
from nets.center_head import codes_at
from store.schema import Need, Places, Target
from student_train.methods.base import DetectionTargets, StudentMaps, TeacherTargets
from student_train.methods.stxd import Stxd, StxdConfig
from student_train.methods.stxd_response import centre_answers
from tests.student_train import labeldistill_case as case
from tests.student_train.detections_case import detections_of
from tests.student_train.method_suite import (
    CONTEXT,
    GRID,
    MethodSuite,
    some_boxes,
    some_maps,
    targets_of,
)


def targets_with_codes(maps: StudentMaps, frames: list[Boxes3D]) -> TeacherTargets:
    boxes = BoxBatch.pad(frames)
    cell = GRID.cell_index(boxes.values[..., :2])
    codes = codes_at(maps.center, boxes.labels, cell)
    return replace(targets_of(maps, frames), codes=codes, coded=boxes.valid)


class TestSameCell(MethodSuite):
    """By the score alone: boxes said at random overlap nothing."""

    def build(self) -> Stxd:
        off = {"weight": 0}
        response = {"pairs": "same_cell", "gamma": 0}
        values = {"response": response, "rd": {"weight": 1}, "cd": off, "td": off}
        return Stxd(StxdConfig.model_validate(values), CONTEXT)

    def targets(self, maps: StudentMaps, frames: list[Boxes3D]) -> TeacherTargets:
        return targets_with_codes(maps, frames)

    def test_it_reads_exactly_what_it_declares(self, frames: list[Boxes3D]):
        needs = self.build().needs(self.build().config, None)
        assert needs == {
            Need(Target.BOX_CODE, Places.BOXES),
            Need(Target.HEATMAP_LOGIT, Places.CELLS),
        }
        targets, student = self.targets(some_maps(4, 2), frames), some_maps(3, 2)
        declared = TeacherTargets(
            codes=targets.codes,
            coded=targets.coded,
            cells=targets.cells,
            cell_weight={CENTER_HEAD: targets.cell_weight[CENTER_HEAD]},
            at_cells={Target.HEATMAP_LOGIT: targets.at_cells[Target.HEATMAP_LOGIT]},
        )
        boxes = BoxBatch.pad(frames)
        total = self.total(student, declared, boxes)
        assert total > 0
        assert total == self.total(student, targets, boxes)


def test_the_answers_are_those_of_the_centre_cells():
    """More of them than the best detections would be: none is cut off."""
    frames, maps = [some_boxes(1, 60), some_boxes(2, 3)], some_maps(4, 2)
    boxes = BoxBatch.pad(frames)
    found = centre_answers(targets_with_codes(maps, frames), boxes, GRID)
    expected = detections_of(maps, frames)
    assert found.valid.equal(boxes.valid)
    torch.testing.assert_close(found.box, expected.box)
    torch.testing.assert_close(found.probability[boxes.valid], expected.probability[boxes.valid])
    assert found.object[0].tolist() == list(range(60))


@pytest.mark.parametrize(
    "augment",
    [
        BevAugment.identity(),
        BevAugment.compose(flip_x=True, flip_y=True),
        BevAugment.compose(yaw=0.3, scale=1.05, flip_y=True),
        BevAugment.compose(yaw=-0.3, scale=0.95, flip_x=True, shift=(-0.6, 0.9)),
    ],
)
def test_carried_answers_are_those_of_the_frame_as_it_was(augment: BevAugment):
    method = case.method_of()
    rows = case.rows_of(method, case.TRUTHS, case.IDENTITY)

    def answers(of: BevAugment) -> DetectionTargets:
        boxes = BoxBatch.pad([of.boxes3d(truth) for truth in case.TRUTHS])
        return centre_answers(case.targets_of(method, rows, of), boxes, case.GRID)

    still, carried = answers(case.IDENTITY), answers(augment)
    # The third box of the first frame is off the grid.
    assert carried.valid.tolist() == [[True, True, False], [True, False, False]]
    at = carried.valid
    assert torch.allclose(carried.box[at][:, :6], augment.boxes(still.box)[at][:, :6], atol=1e-4)
    assert torch.allclose(carried.iou[at], still.iou[at], atol=1e-4)
    assert carried.probability[at].equal(still.probability[at])
    truth = BoxBatch.pad(case.TRUTHS)
    cell = case.GRID.cell_index(truth.values[..., :2])
    logit = case.teacher_head().heatmap_logit.flatten(2)
    said = logit.gather(2, cell[:, None].expand(-1, 10, -1)).mT.sigmoid()
    assert torch.allclose(carried.probability[at], said[at], atol=2**-9)


@pytest.mark.parametrize("x", [-4.6, -3.5])
def test_a_box_whose_cell_was_carried_off_the_grid_has_no_answer(x: float):
    """Its own centre lies on it still; the nearest cell left is another object's, next to it."""
    augment = BevAugment.compose(shift=(-0.6, 0.0))
    truth = Boxes3D(
        torch.tensor([[-5.2, 0.4, 0, 4, 2, 1.5, 0, 0, 0], [x, 0.5, 0, 4, 2, 1.5, 0, 0, 0]]),
        torch.tensor([0, 0]),
    )
    method, truths = case.method_of(), [truth, Boxes3D.empty()]
    rows = case.rows_of(method, truths, case.IDENTITY)
    boxes = BoxBatch.pad([augment.boxes3d(own) for own in truths])
    targets = case.targets_of(method, rows, augment)
    assert targets.coded is not None
    assert targets.coded[0].tolist() == [True, True]
    assert centre_answers(targets, boxes, case.GRID).valid[0].tolist() == [False, True]
