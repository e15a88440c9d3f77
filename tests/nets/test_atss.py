import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from frames.anchor_assign import BACKGROUND, Assignment
from nets.atss import ImageObjects, assign_image_anchors, overlap
from nets.aux_head_2d import image_anchors

# Anchors of 16 and 32 pixels, at strides 4 and 8, of a 32 x 64 image.
LEVELS = image_anchors([(8, 16), (4, 8)], scale=4)
IMAGE = (64, 32)


def objects(*boxes: tuple[float, ...], labels: list[int] | None = None) -> ImageObjects:
    """Boxes about their own middles."""
    table = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    middles = (table[:, :2] + table[:, 2:]) / 2
    return ImageObjects(table, middles, torch.tensor(labels or [0] * len(boxes)).long())


def some_objects(seed: int, count: int) -> ImageObjects:
    generator = torch.Generator().manual_seed(seed)
    ends = torch.rand(count, 2, 2, generator=generator) * torch.tensor(IMAGE)
    boxes = torch.cat([ends.amin(1), ends.amax(1) + 1], 1)
    centres = torch.rand(count, 2, generator=generator) * torch.tensor(IMAGE)
    return ImageObjects(boxes, centres, torch.arange(count) % 3)


def literal(levels: tuple[Tensor, ...], seen: ImageObjects, nearest: int) -> Assignment:
    """ATSS anchor by anchor."""
    anchors = torch.cat(levels)
    label = torch.full((len(anchors),), BACKGROUND)
    box = torch.zeros_like(label)
    most = torch.zeros(len(anchors))
    first = [sum(len(level) for level in levels[:k]) for k in range(len(levels))]
    for m, wanted in enumerate(seen.boxes.tolist()):
        ious: dict[int, float] = {}
        for start, level in zip(first, levels, strict=True):
            middle = (level[:, :2] + level[:, 2:]) / 2
            order = torch.linalg.vector_norm(middle - seen.centres[m], dim=1).argsort()
            for index in (order[:nearest] + start).tolist():
                left, top, right, bottom = anchors[index].tolist()
                width = min(right, wanted[2]) - max(left, wanted[0])
                height = min(bottom, wanted[3]) - max(top, wanted[1])
                shared = max(width, 0) * max(height, 0)
                area = (wanted[2] - wanted[0]) * (wanted[3] - wanted[1])
                ious[index] = shared / ((right - left) * (bottom - top) + area - shared)
        mean = sum(ious.values()) / len(ious)
        spread = (sum((x - mean) ** 2 for x in ious.values()) / (len(ious) - 1)) ** 0.5
        for index, iou in ious.items():
            u, v = ((anchors[index, :2] + anchors[index, 2:]) / 2).tolist()
            inside = min(u - wanted[0], v - wanted[1], wanted[2] - u, wanted[3] - v) > 0.01
            if iou >= mean + spread and inside and iou > most[index]:
                most[index], label[index], box[index] = iou, seen.labels[m], m
    return Assignment(label, box)


@given(seed=st.integers(0, 10_000), count=st.integers(1, 6), nearest=st.integers(1, 40))
def test_the_assignment_is_its_rule_read_literally(seed: int, count: int, nearest: int):
    seen = some_objects(seed, count)
    wanted = literal(LEVELS, seen, nearest)
    found = assign_image_anchors(LEVELS, seen, nearest)
    assert torch.equal(found.label, wanted.label)
    assert torch.equal(found.box[found.positive], wanted.box[found.positive])


def test_an_assignment_by_hand():
    """An anchor's own box of 16 pixels about (24, 16): cell (4, 6) of the first level.

    Of the three nearest of each level (the first at 0, the next at one stride) the IoU is 1, then
    12 / 20; a quarter, 16^2 / 32^2, for the second level's, all of which hold it. Mean and spread:
    (1 + 2 * 0.6 + 3 * 0.25) / 6 = 0.49, 0.30: only the first reaches their sum.
    """
    seen = objects((16, 8, 32, 24), labels=[2])
    found = assign_image_anchors(LEVELS, seen, 3)
    assert found.positive.nonzero().flatten().tolist() == [4 * 16 + 6]
    assert found.label[4 * 16 + 6] == 2


def test_candidates_lie_about_the_projected_centre_not_the_box():
    """A car cut at the left border: its 2D box begins at column 0, its centre is at 1.

    The three candidates of each level about (1, 16) are at columns 0 and 4, and 0 and 8.
    """
    cut = objects((0, 8, 24, 24))
    left = ImageObjects(cut.boxes, torch.tensor([[1.0, 16.0]]), cut.labels)
    anchors = torch.cat(LEVELS)
    columns = (anchors[:, 0] + anchors[:, 2]) / 2
    assert 12 in columns[assign_image_anchors(LEVELS, cut, 3).positive]
    assert set(columns[assign_image_anchors(LEVELS, left, 3).positive].tolist()) == {4}


def test_a_positive_anchors_centre_lies_inside():
    """All candidates of a far-off centre lie outside of the box; none is positive."""
    away = ImageObjects(
        torch.tensor([[40.0, 2, 60, 12]]), torch.tensor([[4.0, 28.0]]), torch.tensor([0])
    )
    assert not assign_image_anchors(LEVELS, away, 3).positive.any()


def test_an_anchor_of_two_objects_answers_for_the_nearer_in_size():
    seen = objects((15, 7, 33, 25), (16, 8, 32, 24), labels=[0, 1])
    found = assign_image_anchors(LEVELS, seen, 3)
    assert found.label[4 * 16 + 6] == 1
    assert found.box[4 * 16 + 6] == 1


def test_without_objects_all_is_background():
    found = assign_image_anchors(LEVELS, objects(), 9)
    assert (found.label == BACKGROUND).all()
    assert len(found.label) == len(found.box) == 8 * 16 + 4 * 8


@given(seed=st.integers(0, 10_000))
def test_a_mirrored_image_has_the_mirrored_assignment(seed: int):
    def mirrored(boxes: Tensor) -> Tensor:
        return torch.stack([64 - boxes[:, 2], boxes[:, 1], 64 - boxes[:, 0], boxes[:, 3]], 1)

    seen = some_objects(seed, 3)
    about = torch.stack([64 - seen.centres[:, 0], seen.centres[:, 1]], 1)
    found = assign_image_anchors(LEVELS, seen, 9)
    levels = tuple(mirrored(level) for level in LEVELS)
    again = assign_image_anchors(levels, ImageObjects(mirrored(seen.boxes), about, seen.labels), 9)
    # Rounding aside: an IoU may lie on its threshold.
    assert (found.label != again.label).sum() <= 1


def test_overlaps_by_hand():
    ours = torch.tensor([[0.0, 0, 4, 2], [0, 0, 1, 1]])
    theirs = torch.tensor([[2.0, 1, 6, 3], [1, 1, 2, 2]])
    shared, union = overlap(ours, theirs)
    assert shared.tolist() == [2, 0]
    assert union.tolist() == [14, 2]
