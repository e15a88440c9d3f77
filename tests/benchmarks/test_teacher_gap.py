"""What a teacher says at positive anchors against the truth."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.teacher_gap import (
    AtPositives,
    component_errors,
    noisy_student,
    of_row,
    pass_whole_box,
    passing_pilots,
)
from frames.anchor_assign import positive_anchors
from frames.anchor_code import decode_at_anchors, encode_at_anchors
from frames.anchors import AnchorConfig
from frames.boxes import Boxes3D
from frames.grid import BEVGrid
from student_train.methods.anchor_xgd import AnchorXgdConfig

CAR = torch.tensor([10.0, 2.0, -1.0, 4.0, 1.6, 1.5, 0.1])
CONFIG = AnchorConfig(grid=BEVGrid(x_min=0, y_min=-8, cell_size=0.4, shape=(40, 40)))


def at_cars(*teacher: Tensor, scores: list[float] | None = None, label: int = 0) -> AtPositives:
    count = len(teacher)
    return AtPositives(
        anchors=torch.tensor([10.0, 2.0, -1.0, 3.9, 1.6, 1.56, 0.0]).expand(count, 7),
        teacher=torch.stack(teacher),
        truth=CAR.expand(count, 7),
        scores=torch.tensor(scores or [1.0] * count),
        labels=torch.full((count,), label),
    )


def changed(**numbers: float) -> Tensor:
    box = CAR.clone()
    for name, value in numbers.items():
        box["xyzlwha".index(name)] = value
    return box


def test_errors_are_those_worked_by_hand():
    errors = component_errors(
        at_cars(changed(x=13, y=6), changed(l=5, w=1.28), changed(a=0.1 + math.pi - 0.2))
    )
    assert errors["position"].tolist() == [5, 0, 0]
    # 5 / 4 = 1.6 / 1.28 = 1.25; a heading and its reverse are alike.
    torch.testing.assert_close(errors["size"], torch.tensor([1, 1.25, 1]))
    torch.testing.assert_close(errors["heading"], torch.tensor([0, 0, 0.2]))


def test_a_whole_box_must_overlap_and_be_sure():
    """Shifted by s along its length l, a box has the IoU (l - s) / (l + s)."""
    turned = torch.tensor([math.cos(0.1), math.sin(0.1)])
    boxes = []
    for shift in (0.6, 0.8, 0.6):
        box = CAR.clone()
        box[:2] += shift * turned
        boxes.append(box)
    # 3.4 / 4.6 = 0.74, 3.2 / 4.8 = 0.67.
    scores = [0.31, 0.9, 0.29]
    assert pass_whole_box(at_cars(*boxes, scores=scores)).tolist() == [True, False, False]
    assert pass_whole_box(at_cars(*boxes, scores=scores, label=1)).tolist() == [True, True, False]


def test_pilots_keep_what_points_towards_the_truth():
    """The student is 1 m short, 10 % too long and turned by 0.2 rad."""
    at = at_cars(changed(x=9.5, l=4.6, a=0.0), changed(x=8.5, l=3.8, a=0.4))
    student = encode_at_anchors(changed(x=9, l=4.4, a=0.3), at.anchors[0]).expand(2, 7)
    kept = passing_pilots(at, student, AnchorXgdConfig())
    assert {name: mask.tolist() for name, mask in kept.items()} == {
        "position": [True, False],
        "size": [False, True],
        "heading": [True, False],
    }


@pytest.mark.parametrize("further", [0.0, 0.1])
def test_a_drawn_student_errs_as_asked(further: float):
    at = at_cars(*[CAR] * 2000)
    codes = noisy_student(at, 0.05, torch.Generator().manual_seed(0), further)
    mean = decode_at_anchors(codes, at.anchors).mean(0)
    expected = CAR * torch.tensor([1 + further] * 3 + [1] * 4)
    torch.testing.assert_close(mean, expected, atol=0.02, rtol=0)
    truth = encode_at_anchors(expected, at.anchors[0])
    torch.testing.assert_close((codes - truth).std(0), torch.full((7,), 0.05), atol=0.004, rtol=0)


@pytest.mark.parametrize("count", [0, 2])
def test_a_row_is_read_anchor_by_anchor(count: int):
    truth = torch.tensor([[6.0, 1, -1, 4, 1.6, 1.5, 0, 0, 0], [9, -4, 0.3, 0.8, 0.6, 1.7, 1, 0, 0]])
    gt = Boxes3D(truth[:count], torch.tensor([1, 0])[:count])
    index, owner = positive_anchors(CONFIG, gt)
    boxes, scores = torch.randn(len(index), 7), torch.rand(len(index))
    at = of_row(
        {
            "anchors/index": index.numpy().astype(np.int32),
            "anchors/object": owner.numpy().astype(np.int32),
            "anchors/box": boxes.numpy(),
            "anchors/score": scores.numpy(),
        },
        gt,
        CONFIG,
    )
    assert torch.equal(at.teacher, boxes)
    assert torch.equal(at.scores, scores)
    assert torch.equal(at.anchors, CONFIG.boxes()[index])
    assert torch.equal(at.truth, truth[owner, :7])
    assert at.labels.tolist() == [1 - int(own) for own in owner]
    joined = AtPositives.join([at, at])
    assert len(joined.labels) == 2 * len(index)
    assert len(joined.of_class(1).labels) == 2 * int((owner == 0).sum())
