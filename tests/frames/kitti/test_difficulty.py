import pytest

from frames.kitti.average_precision import COUNTED
from frames.kitti.difficulty import (
    ARGOVERSE_DISTANCES,
    ARGOVERSE_HEIGHTS,
    KITTI_DIFFICULTIES,
    Difficulty,
    rescaled_difficulties,
)
from frames.kitti.labels import KittiObject
from frames.kitti.scoring import as_labels, label_roles

EASY, MODERATE, HARD = "easy", "moderate", "hard"


def lowest(thing: KittiObject, levels: tuple[Difficulty, ...] = KITTI_DIFFICULTIES) -> str | None:
    """The first level at which a car counts when cars are scored."""
    labels = as_labels([thing])
    counting = (e.name for e in levels if label_roles(labels, "Car", e).tolist() == [COUNTED])
    return next(counting, None)


@pytest.mark.parametrize(
    ("height", "occlusion", "truncation", "expected"),
    [
        (40.01, 0, 0.15, EASY),
        (40.00, 0, 0.00, MODERATE),
        (99.00, 1, 0.00, MODERATE),
        (99.00, 0, 0.16, MODERATE),
        (25.01, 1, 0.30, MODERATE),
        (25.00, 0, 0.00, None),
        (99.00, 2, 0.00, HARD),
        (99.00, 0, 0.31, HARD),
        (25.01, 2, 0.50, HARD),
        (99.00, 3, 0.00, None),
        (99.00, 0, 0.51, None),
    ],
)
def test_the_lowest_level_by_hand(
    height: float, occlusion: int, truncation: float, expected: str | None
):
    thing = KittiObject(
        kind="Car",
        truncation=truncation,
        occlusion=occlusion,
        alpha=0,
        bbox=(0, 0, 10, height),
        box=None,
    )
    assert lowest(thing) == expected


def test_dont_care_has_no_difficulty():
    region = KittiObject(
        kind="DontCare", truncation=-1, occlusion=-1, alpha=-10, bbox=(0, 0, 90, 90), box=None
    )
    assert lowest(region) is None


def test_argoverses_heights():
    # 40 and 25 pixels at KITTI's 707.05 are 105.83 and 66.14 at 1870.57.
    assert [level.height for level in ARGOVERSE_HEIGHTS] == pytest.approx(
        [105.82, 66.14, 66.14], abs=0.005
    )
    # A fifth of the focal length: a fifth of the height, and nothing else changes.
    far = rescaled_difficulties(141.41)
    assert [level.height for level in far] == pytest.approx([8, 5, 5])
    kept = [(level.name, level.occlusion, level.truncation) for level in far]
    assert kept == [(k.name, k.occlusion, k.truncation) for k in KITTI_DIFFICULTIES]


@pytest.mark.parametrize(
    ("depth", "occlusion", "truncation", "expected"),
    [
        (29.99, 0, 0.15, "easy"),
        (30.00, 0, 0.00, "moderate"),
        (29.99, 1, 0.00, "moderate"),
        (69.99, 0, 0.31, "hard"),
        (70.00, 0, 0.00, None),
        (0.00, 0, 0.00, None),
        (10.00, 3, 0.00, None),
    ],
)
def test_argoverses_distances_by_hand(
    depth: float, occlusion: int, truncation: float, expected: str | None
):
    thing = KittiObject(
        kind="Car",
        truncation=truncation,
        occlusion=occlusion,
        alpha=0,
        bbox=(0, 0, 10, 1),
        box=(depth, 5, 0, 4, 2, 1.5, 0),
    )
    assert lowest(thing, ARGOVERSE_DISTANCES) == expected


def test_argoverses_bins_are_as_lenient_as_hard():
    hard, *bins = ARGOVERSE_DISTANCES[2:]
    assert [(level.near, level.far) for level in bins] == [(0, 30), (30, 50), (50, 70)]
    assert {(b.occlusion, b.truncation) for b in bins} == {(hard.occlusion, hard.truncation)}
