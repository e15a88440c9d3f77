"""A teacher's detections: what is stored of them, and when two tellings are the same."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from frames.augment import BevAugment
from frames.boxes import BoxBatch, Boxes3D
from frames.detections import Detections
from frames.frame import Frame
from nets.center_head import CenterMaps
from store.choices import Coverage
from store.errors import PlanError
from store.plan import masks_of, plan_arrays
from store.schema import MOST_FOUND, Need, Places, Target
from teacher_dump.centerpoint_teacher import CenterPointTeacher
from teacher_dump.errors import TeacherError
from teacher_dump.found_boxes import (
    LEAST_IOU,
    detection_arrays,
    found_at_cells,
    same_order,
)
from teacher_dump.protocol import FoundBoxes
from teacher_dump.teacher_rows import teacher_rows

NEED = Need(Target.DETECTIONS, Places.DETECTIONS)
BOX = torch.tensor([3.0, -2.0, 1.0, 4.0, 2.0, 1.5, 0.4, 1.0, 0.0])


def found_of(boxes: Tensor, scores: list[float]) -> FoundBoxes:
    probability = torch.tensor(scores)[:, None].repeat(1, 10) / 2
    return FoundBoxes(boxes=boxes, scores=torch.tensor(scores), probability=probability)


def test_objects_and_overlaps_by_hand():
    """The same box; half a length ahead (a third); above it; far away."""
    along = torch.tensor([math.cos(0.4), math.sin(0.4)])
    ahead, above, far = BOX.clone(), BOX.clone(), BOX.clone()
    ahead[:2] += 2 * along
    above[2] += 2
    far[0] += 50
    truth = Boxes3D(torch.stack([far + 100, BOX]), torch.tensor([3, 0]))
    found = found_of(torch.stack([BOX, ahead, above, far]), [0.9, 0.8, 0.7, 0.6])
    arrays = detection_arrays(found, truth)
    assert arrays["detections/object"].tolist() == [1, 1, -1, -1]
    assert arrays["detections/iou"].tolist() == pytest.approx([1, 1 / 3, 0, 0])
    assert arrays["detections/centre"][1].tolist() == pytest.approx(ahead[:3].tolist())
    assert arrays["detections/yaw"].tolist() == pytest.approx([0.4] * 4)
    dtypes = {name: values.dtype.name for name, values in arrays.items()}
    assert dtypes.pop("detections/object") == "int32"
    assert set(dtypes.values()) == {"float32"}


def test_boxes_that_hardly_touch_do_not_belong_together():
    flat = torch.tensor([0.0, 0, 0, 2, 2, 2, 0, 0, 0])
    beside = flat.clone()
    beside[0] = 2 * (1 - LEAST_IOU / 2)
    arrays = detection_arrays(found_of(beside[None], [0.5]), Boxes3D(flat[None], torch.tensor([0])))
    assert arrays["detections/object"].tolist() == [-1]
    assert arrays["detections/iou"].tolist() == [0]


@pytest.mark.parametrize(("boxes", "count"), [(0, 3), (2, 0), (0, 0)])
def test_none_found_and_none_true(boxes: int, count: int):
    truth = Boxes3D(BOX.repeat(count, 1), torch.zeros(count, dtype=torch.int64))
    arrays = detection_arrays(found_of(BOX.repeat(boxes, 1) + 9, [0.5] * boxes), truth)
    assert {len(values) for values in arrays.values()} == {boxes}
    assert arrays["detections/probability"].shape == (boxes, 10)
    assert (arrays["detections/object"] == -1).all()


def test_probabilities_are_those_of_the_cell():
    rng = torch.Generator().manual_seed(0)
    logit = torch.randn(1, 10, 4, 6, generator=rng)
    head = CenterMaps(logit, torch.zeros(1, 1, 10, 4, 6), torch.zeros(10, dtype=torch.int64))
    cells = torch.arange(24).repeat(20)
    many = Detections(
        torch.zeros(480, 9), torch.zeros(480).long(), torch.linspace(1, 0, 480), cells
    )
    (found,) = found_at_cells(head, [many])
    assert len(found.scores) == MOST_FOUND
    assert found.scores.equal(many.scores[:MOST_FOUND])
    assert torch.allclose(found.probability[7], logit[0, :, 1, 1].sigmoid())


def test_a_teachers_rows_hold_what_it_detects(teacher: CenterPointTeacher, frames: list[Frame]):
    arrays = plan_arrays([NEED], Coverage.FOREGROUND, teacher.info.shapes)
    rows = list(teacher_rows(teacher, frames, arrays, masks_of([NEED])))
    for row, detections in zip(rows, teacher.detect(frames), strict=True):
        score, probability = (row.arrays[f"detections/{n}"] for n in ("score", "probability"))
        assert 0 < len(score) <= MOST_FOUND
        assert score.tolist() == pytest.approx(detections.scores[:MOST_FOUND].tolist(), rel=1e-5)
        labels = detections.labels[:MOST_FOUND].numpy()
        # A centre head's score is the probability of the label at the cell.
        assert probability[np.arange(len(score)), labels] == pytest.approx(score, rel=1e-5)
        centre = detections.boxes[:MOST_FOUND, :3].numpy()
        assert row.arrays["detections/centre"] == pytest.approx(centre, abs=1e-3)


def test_an_augmented_frames_detections_are_in_it(teacher: CenterPointTeacher, frames: list[Frame]):
    """Ground truth and detections are in one frame: turned together, boxes keep their overlap."""
    turn = BevAugment.compose(yaw=0.3, flip_y=True)
    arrays = plan_arrays([NEED], Coverage.FOREGROUND, teacher.info.shapes)
    (row,) = teacher_rows(teacher, frames[:1], arrays, (), [turn])
    truth = turn.boxes3d(frames[0].boxes)
    output = teacher(frames[:1], BoxBatch.pad([truth]), [turn])
    assert output.found is not None
    again = detection_arrays(output.found()[0], truth)
    assert row.arrays["detections/object"].tolist() == again["detections/object"].tolist()


def test_a_teacher_without_detections_is_told(teacher: CenterPointTeacher, frames: list[Frame]):
    shapes = teacher.info.shapes
    with pytest.raises(PlanError, match=r"tells none: give TeacherOutput\.found"):
        plan_arrays([NEED], Coverage.FOREGROUND, replace(shapes, detections=0))
    arrays = plan_arrays([NEED], Coverage.FOREGROUND, shapes)

    class Silent:
        info = teacher.info

        def __call__(self, *seen: object) -> object:
            return replace(teacher(*seen), found=None)  # type: ignore[arg-type]

        def detect(self, frames: object) -> object:
            raise NotImplementedError(frames)

    with pytest.raises(TeacherError, match=r"fill TeacherOutput\.found"):
        list(teacher_rows(Silent(), frames[:1], arrays, ()))  # type: ignore[arg-type]
    few = replace(teacher.info, shapes=replace(shapes, detections=2))

    class Talkative(Silent):
        info = few

        def __call__(self, *seen: object) -> object:
            return teacher(*seen)  # type: ignore[arg-type]

    with pytest.raises(TeacherError, match=r"info\.shapes\.detections says 2 at most"):
        list(teacher_rows(Talkative(), frames[:1], arrays, ()))  # type: ignore[arg-type]


def told(places: list[float], scores: list[float]) -> dict[str, np.ndarray]:
    boxes = torch.zeros(len(places), 9)
    boxes[:, 0] = torch.tensor(places)
    return detection_arrays(found_of(boxes, scores), Boxes3D.empty())


def test_tellings_that_only_rounding_parts_are_put_in_one_order():
    """Exchanged in order, two at one place, and one cut off at the end of either."""
    stored = told([0, 5, 5, 20, 30], [0.9, 0.800001, 0.8, 0.8, 0.1])
    now = told([20, 5, 0.001, 5, 40], [0.800002, 0.8, 0.9, 0.800001, 0.1])
    first, second = same_order(stored, now)
    assert first["detections/centre"][:, 0].tolist() == [0, 5, 5, 20]
    assert second["detections/centre"][:, 0] == pytest.approx([0, 5, 5, 20], abs=0.01)
    assert first["detections/score"] == pytest.approx(second["detections/score"], abs=1e-5)


def test_a_good_detection_that_is_missing_shows():
    stored, now = told([0, 5, 9], [0.9, 0.8, 0.2]), told([0, 9], [0.9, 0.2])
    for one, other in ((stored, now), (now, stored), (stored, told([], [])), (told([], []), now)):
        first, second = same_order(one, other)
        assert len(first["detections/score"]) != len(second["detections/score"])
