import numpy as np
import pytest

from frames.kitti import overlaps
from frames.kitti.overlaps import (
    OverlapFunction,
    Placed,
    bev_overlap,
    image_coverage,
    image_overlap,
    overlapping_pairs,
    volume_overlap,
)

UNIT = np.array([[0.0, 0, 10, 10]])


def placed(counts: list[int], width: int, seed: int) -> Placed:
    frames = np.repeat(np.arange(len(counts)), counts)
    boxes = np.random.default_rng(seed).uniform(1, 4, (len(frames), width))
    if width == 4:
        boxes[:, 2:] += boxes[:, :2]
    else:
        boxes[:, :3] /= 2
    return Placed(boxes, frames)


@pytest.mark.parametrize(
    ("overlap", "width"), [(image_overlap, 4), (bev_overlap, 7), (volume_overlap, 7)]
)
@pytest.mark.parametrize("together", [1, 7, 1000])
def test_pairs_are_those_of_every_frame(
    monkeypatch: pytest.MonkeyPatch, overlap: OverlapFunction, width: int, together: int
):
    monkeypatch.setattr(overlaps, "_PAIRS_TOGETHER", together)
    labels, detections = placed([3, 0, 2, 4, 1], width, 0), placed([2, 3, 0, 6, 5], width, 1)
    pairs = overlapping_pairs(labels, detections, overlap, 0.05)
    found = list(zip(pairs.labels, pairs.detections, pairs.overlap, strict=True))
    expected = [
        (i, j, value)
        for i in range(10)
        for j in range(16)
        if labels.frames[i] == detections.frames[j]
        and (value := overlap(labels.boxes[i : i + 1], detections.boxes[j : j + 1])[0]) > 0.05
    ]
    assert [each[:2] for each in found] == [each[:2] for each in expected]
    np.testing.assert_allclose(pairs.overlap, [each[2] for each in expected], atol=1e-12)
    assert 5 < len(found) < 35
    assert (pairs.above(0.1).overlap > 0.1).all()


def test_no_boxes_no_pairs():
    some = placed([2, 1], 4, 0)
    none = Placed(np.zeros((0, 4)), np.zeros(0, dtype=np.int64))
    for pair in ((some, none), (none, some), (none, none)):
        assert len(overlapping_pairs(*pair, image_overlap, 0.0).overlap) == 0


@pytest.mark.parametrize(
    ("other", "overlap", "coverage"),
    [
        ([0, 0, 10, 10], 1, 1),
        ([5, 0, 15, 10], 1 / 3, 1 / 2),
        ([0, 0, 10, 5], 1 / 2, 1),
        ([-10, -10, 20, 20], 1 / 9, 1 / 9),
        ([10, 0, 20, 10], 0, 0),
        ([30, 30, 40, 40], 0, 0),
        ([5, 5, 5, 5], 0, 0),
    ],
)
def test_image_overlaps_by_hand(other: list[float], overlap: float, coverage: float):
    boxes = np.array([other], dtype=np.float64)
    assert image_overlap(UNIT, boxes)[0] == pytest.approx(overlap)
    assert image_coverage(UNIT, boxes)[0] == pytest.approx(coverage)


def test_unknown_boxes_overlap_nothing():
    boxes = np.array([[1.0, 1, 1, 4, 2, 2, 0.3]])
    for overlap in (bev_overlap, volume_overlap):
        assert overlap(boxes, boxes)[0] == pytest.approx(1)
        assert overlap(np.zeros((1, 7)), boxes)[0] == 0
        assert overlap(np.zeros((1, 7)), np.zeros((1, 7)))[0] == 0
