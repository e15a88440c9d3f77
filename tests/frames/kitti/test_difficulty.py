import pytest

from frames.kitti.difficulty import difficulty
from frames.kitti.labels import KittiObject

EASY, MODERATE, HARD = "easy", "moderate", "hard"


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
    assert difficulty(thing) == expected


def test_dont_care_has_no_difficulty():
    region = KittiObject(
        kind="DontCare", truncation=-1, occlusion=-1, alpha=-10, bbox=(0, 0, 90, 90), box=None
    )
    assert difficulty(region) is None
