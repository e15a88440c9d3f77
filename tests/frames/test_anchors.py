import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from frames.anchor_assign import (
    BACKGROUND,
    IGNORED,
    Assignment,
    assign_anchors,
    nearest_overlaps,
)
from frames.anchor_code import decode_at_anchors, encode_at_anchors
from frames.anchors import KITTI_ANCHORS, AnchorConfig
from frames.geometry import wrap_angle
from frames.grid import BEVGrid

LIGA = AnchorConfig()
SMALL = AnchorConfig(grid=BEVGrid(x_min=0, y_min=-2.5, cell_size=0.9, shape=(5, 9)))


def test_the_published_grid():
    # LIGA-Stereo's figures, commit aee3731.
    anchors = LIGA.boxes()
    assert LIGA.count == len(anchors) == 525_312
    table = anchors.view(304, 288, 3, 2, 7)
    assert (table[0, 1, 0, 0, 0] - table[0, 0, 0, 0, 0]).item() == pytest.approx(0.200697, abs=1e-5)
    assert (table[1, 0, 0, 0, 1] - table[0, 0, 0, 0, 1]).item() == pytest.approx(0.200660, abs=1e-5)
    assert table[0, 0, :, 0, 2].tolist() == pytest.approx([-1.0, 0.265, 0.265], abs=1e-6)
    assert table[5, 7, 0, 0, 3:5].norm().item() == pytest.approx(4.21545, abs=1e-5)


def test_the_order_is_cell_class_rotation():
    anchors, j, i, c, r = LIGA.boxes(), 17, 101, 2, 1
    n = ((j * 288 + i) * 3 + c) * 2 + r
    x = 2 + i * 57.6 / 287
    y = -30.4 + j * 60.8 / 303
    expected = [x, y, -0.6 + 1.73 / 2, 1.76, 0.6, 1.73, 1.57]
    assert anchors[n].tolist() == pytest.approx(expected, abs=1e-5)


def test_a_code_worked_by_hand():
    anchor = torch.tensor([10.0, 2.0, -1.0, 3.0, 4.0, 2.0, 1.5])
    box = torch.tensor([12.5, 1.0, 0.0, 6.0, 4.0, 1.0, -3.0])
    # Diagonal 5; -4.5 rad wrapped is 2 pi - 4.5.
    expected = [0.5, -0.2, 0.5, math.log(2), 0, -math.log(2), math.tau - 4.5]
    assert encode_at_anchors(box, anchor).tolist() == pytest.approx(expected, abs=1e-6)


@given(st.integers(0, 2**32 - 1))
def test_codes_and_boxes_go_round(seed: int):
    torch.manual_seed(seed)
    boxes = torch.cat([torch.randn(9, 3) * 20, torch.rand(9, 3) * 5 + 0.2, torch.randn(9, 1)], 1)
    anchors = LIGA.boxes()[torch.randint(LIGA.count, (9,))]
    back = decode_at_anchors(encode_at_anchors(boxes, anchors), anchors)
    assert torch.allclose(back[:, :6], boxes[:, :6], atol=1e-4)
    assert wrap_angle(back[:, 6] - boxes[:, 6]).abs().max() < 1e-5


def test_overlaps_worked_by_hand():
    box = torch.tensor([[0.0, 0.0, 0.0, 4.0, 2.0, 1.5, 0.1]])
    others = torch.tensor(
        [
            # Half of it: 4 of 12.
            [2.0, 0.0, 9.0, 4.0, 2.0, 1.5, math.pi],
            # Turned by more than 45 degrees it lies across: 2 x 2 of 4 x 2 twice.
            [0.0, 0.0, 0.0, 4.0, 2.0, 1.5, math.pi / 4 + 0.01],
            # By less it does not.
            [0.0, 0.0, 0.0, 4.0, 2.0, 1.5, math.pi / 4 - 0.01],
            # Side by side.
            [0.0, 2.0, 0.0, 4.0, 2.0, 1.5, 0.0],
        ]
    )
    assert nearest_overlaps(box, others)[0].tolist() == pytest.approx([1 / 3, 1 / 3, 1, 0])


def literal(config: AnchorConfig, boxes: torch.Tensor, labels: torch.Tensor) -> list[int]:
    """The rule read anchor by anchor."""
    anchors, found = config.boxes(), []
    classes = [n // 2 % 3 for n in range(config.count)]
    overlaps = nearest_overlaps(anchors, boxes)
    for n, c in enumerate(classes):
        own = [m for m in range(len(boxes)) if labels[m] == c]
        kind = config.classes[c]
        mine = [overlaps[n, m].item() for m in own]
        rivals = [k for k, other in enumerate(classes) if other == c]
        best = any(overlaps[n, m] == overlaps[rivals, m].max() and overlaps[n, m] > 0 for m in own)
        if best or max(mine, default=0) >= kind.positive_iou:
            found.append(c)
        else:
            found.append(IGNORED if max(mine, default=0) >= kind.negative_iou else BACKGROUND)
    return found


@pytest.mark.parametrize("seed", range(8))
def test_the_assigner_is_the_rule_read_literally(seed: int):
    torch.manual_seed(seed)
    labels = torch.randint(3, (seed,))
    sizes = torch.tensor([kind.size for kind in KITTI_ANCHORS])[labels]
    place = torch.rand(seed, 3) * torch.tensor([10.0, 6.0, 1.0]) - torch.tensor([1.0, 3.0, 0.0])
    boxes = torch.cat([place, sizes, torch.rand(seed, 1) * 6], 1)
    assert assign(SMALL, boxes, labels).label.tolist() == literal(SMALL, boxes, labels)


def assign(config: AnchorConfig, boxes: torch.Tensor, labels: torch.Tensor) -> Assignment:
    return assign_anchors(config, config.boxes(), boxes, labels)


def objects(count: int, label: int) -> torch.Tensor:
    """Objects of a class, each alone on the LIGA grid."""
    size = torch.tensor(KITTI_ANCHORS[label].size).expand(count, 3)
    x, y = torch.rand(count, 1) * 50 + 5, torch.rand(count, 1) * 50 - 25
    return torch.cat([x, y, torch.zeros(count, 1), size, torch.rand(count, 1) * 7], 1)


@pytest.mark.parametrize(
    ("label", "mean", "least", "most"), [(0, 21, 17, 24), (1, 5.6, 3, 9), (2, 6.7, 5, 9)]
)
def test_positives_for_an_object_are_as_many_as_measured(
    label: int, mean: float, least: int, most: int
):
    # Counted with LIGA-Stereo's assigner, for objects at random poses.
    torch.manual_seed(label)
    counts = [
        int(assign(LIGA, box[None], torch.tensor([label])).positive.sum())
        for box in objects(30, label)
    ]
    assert sum(counts) / len(counts) == pytest.approx(mean, rel=0.1)
    assert least <= min(counts)
    assert max(counts) <= most


def test_each_positive_answers_for_the_object_it_overlaps_most():
    boxes = torch.tensor([[20.0, 0.0, 0, 3.9, 1.6, 1.5, 0.0], [23.0, 0.5, 0, 3.9, 1.6, 1.5, 0.1]])
    found = assign(LIGA, boxes, torch.zeros(2, dtype=torch.int64))
    own = LIGA.boxes()[found.positive]
    assert torch.equal(found.box[found.positive], nearest_overlaps(own, boxes).argmax(1))
    assert set(found.box[found.positive].tolist()) == {0, 1}


def test_indices_count_among_all_objects():
    boxes = torch.cat([objects(2, 0), objects(1, 1)])
    found = assign(LIGA, boxes, torch.tensor([0, 0, 1]))
    assert set(found.box[found.label == 1].tolist()) == {2}


def test_mirrored_objects_have_mirrored_anchors():
    torch.manual_seed(3)
    boxes, labels = torch.cat([objects(3, k) for k in range(3)]), torch.arange(9) // 3
    mirrored = boxes * torch.tensor([1.0, -1, 1, 1, 1, 1, -1])
    here = assign(LIGA, boxes, labels).label.view(304, 288, 6)
    there = assign(LIGA, mirrored, labels).label.view(304, 288, 6)
    assert torch.equal(there.flip(0), here)


def test_no_objects_leave_background():
    found = assign(SMALL, torch.zeros(0, 7), torch.zeros(0, dtype=torch.int64))
    assert (found.label == BACKGROUND).all()


def test_an_object_off_the_map_has_no_anchors():
    boxes = torch.tensor([[-90.0, 0, 0, 4, 2, 1.5, 0]])
    found = assign(SMALL, boxes, torch.zeros(1, dtype=torch.int64))
    assert (found.label == BACKGROUND).all()
