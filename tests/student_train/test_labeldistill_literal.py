"""LabelDistill's losses against a literal reading."""

import pytest
import torch
from torch import Tensor

from frames.boxes import BoxBatch
from frames.heatmap import center_heatmap, halved
from nets.center_head import CenterMaps
from nets.center_loss import over_peaks, task_peaks
from student_train.methods.base import StudentMaps
from student_train.methods.labeldistill import (
    Response,
    feature_loss,
    response_at_cells,
    response_elsewhere,
)
from tests import literal_labeldistill as literal
from tests.student_train.labeldistill_case import (
    CLASS_TASK,
    GRID,
    TRUTHS,
    method_of,
    student_of,
    targets_for,
    teacher_head,
)

FORMS: tuple[Response, ...] = ("soft_target", "official_dead_positive")


class TestParity:
    """The pure functions against cell by cell loops, on fixed random numbers, to 1e-6."""

    boxes = BoxBatch.pad(TRUTHS)
    mask = center_heatmap(boxes, GRID, 10)

    @staticmethod
    def at_all_cells(maps: Tensor) -> Tensor:
        return maps.flatten(2).mT

    def test_masks(self):
        assert torch.allclose(self.mask, literal.class_heatmaps(self.boxes, GRID), atol=1e-6)
        halves = literal.half_mask(self.mask.sum(1))
        assert torch.allclose(halved(self.mask.sum(1, keepdim=True))[:, 0], halves, atol=1e-6)

    @pytest.mark.parametrize("binary", [False, True])
    def test_features(self, binary: bool):
        rng = torch.Generator().manual_seed(1)
        levels = [
            torch.randn(2, 2, 5, *size, generator=rng, dtype=torch.float64)
            for size in ((16, 12), (8, 6))
        ]
        (t0, s0), (t1, s1) = levels
        masks = (self.mask.sum(1), halved(self.mask.sum(1, keepdim=True))[:, 0])
        weights = [(m > 0).float() if binary else m for m in masks]
        found = sum(
            feature_loss(self.at_all_cells(s), self.at_all_cells(t), w.flatten(1).double())
            for s, t, w in zip((s0, s1), (t0, t1), weights, strict=True)
        )
        expected = literal.feature_term((t0, t1), (s0, s1), masks[0], binary=binary)
        assert float(found) == pytest.approx(expected.item(), rel=1e-6)

    @pytest.mark.parametrize("form", FORMS)
    def test_response(self, form: Response):
        student, teacher = student_of(1).center, teacher_head()
        inside = (self.mask > 0).any(1)
        at_cells = response_at_cells(
            self.at_all_cells(student.heatmap_logit).double(),
            self.at_all_cells(teacher.heatmap_logit),
            self.at_all_cells(self.mask).double(),
            form,
        )
        away = response_elsewhere(student.heatmap_logit.double(), ~inside, form)
        found = over_peaks(at_cells + away, task_peaks(self.mask, CLASS_TASK))
        expected = literal.heatmap_term(student, teacher, self.boxes, GRID, form)
        assert found.item() == pytest.approx(expected.item(), rel=1e-6)

    def test_boxes(self):
        method = method_of()
        targets = targets_for(method)
        assert targets.coded is not None
        assert targets.coded.tolist() == [[True, True, False], [True, False, False]]
        student, teacher = student_of(1).center, teacher_head()
        student = CenterMaps(student.heatmap_logit, student.box_code.detach(), CLASS_TASK)
        # As a store rounds it.
        teacher = CenterMaps(
            teacher.heatmap_logit, teacher.box_code.half().float(), teacher.class_task
        )
        found = method(StudentMaps(student_of(1).features, student), targets, self.boxes)
        weights = method.config.code
        expected = literal.box_term(student, teacher, self.boxes, GRID, weights)
        assert found.terms["box"].item() == pytest.approx(0.25 * expected.item(), rel=1e-6)
