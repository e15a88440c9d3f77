import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from frames.errors import DataError
from frames.kitti.average_precision import Curve
from frames.kitti.difficulty import ARGOVERSE_DISTANCES, KITTI_DIFFICULTIES, Difficulty
from frames.kitti.scoring import (
    KittiDetections,
    KittiLabels,
    KittiScores,
    Metric,
    Overlap,
    Setting,
    score_kitti,
)
from tests.frames.kitti.literal_scoring import literal_scores
from tests.frames.kitti.scoring_cases import (
    Row,
    detections_of,
    labels_of,
    random_frame,
    shuffled,
    thing,
)

IN_SPACE = (Metric.AP_BEV, Metric.AP_3D)


def score(labels: KittiLabels, detections: KittiDetections) -> KittiScores:
    return score_kitti({"a": labels}, {"a": detections})


def curve(
    scores: KittiScores, metric: Metric = Metric.AP_3D, kind: str = "Car", level: str = "hard"
) -> list[float]:
    """The part of a strict curve that was reached."""
    values = scores[Setting(kind, metric, level, Overlap.STRICT)].values
    return [float(value) for value in values[: np.flatnonzero(values).max(initial=-1) + 1]]


def curves(
    labels: Sequence[Row], detections: Sequence[Row], scores: Sequence[float]
) -> dict[Metric, list[float]]:
    found = score(labels_of(labels), detections_of(detections, scores))
    return {metric: curve(found, metric) for metric in Metric if metric is not Metric.AOS}


def everywhere(*values: float) -> dict[Metric, list[float]]:
    return {metric: list(values) for metric in Metric if metric is not Metric.AOS}


def many(frames: int, seed: int) -> tuple[dict[str, KittiLabels], dict[str, KittiDetections]]:
    generator = np.random.default_rng(seed)
    drawn = {str(i): random_frame(generator, decimals=9) for i in range(frames)}
    labels = {token: labels for token, (labels, _) in drawn.items()}
    return labels, {token: detections for token, (_, detections) in drawn.items()}


def same(first: KittiScores, second: KittiScores) -> None:
    assert first.keys() == second.keys()
    for setting, expected in first.items():
        np.testing.assert_allclose(second[setting].values, expected.values, atol=1e-12)


# Objects of random frames lie 5 to 13 m away.
BY_DEPTH = tuple(
    replace(level, near=near, far=far)
    for level, (near, far) in zip(KITTI_DIFFICULTIES, ((0, 9), (6, 11), (9, 20)), strict=True)
)


@pytest.mark.parametrize(
    ("seed", "difficulties"),
    [(0, KITTI_DIFFICULTIES), (1, KITTI_DIFFICULTIES), (2, KITTI_DIFFICULTIES), (3, BY_DEPTH)],
)
def test_scores_are_those_of_the_protocol_read_literally(
    seed: int, difficulties: tuple[Difficulty, ...]
):
    generator = np.random.default_rng(seed)
    frames = [random_frame(generator) for _ in range(60)]
    labels = {str(i): labels for i, (labels, _) in enumerate(frames)}
    detections = {str(i): detections for i, (_, detections) in enumerate(frames)}
    found = score_kitti(labels, detections, difficulties)
    expected = literal_scores(frames, difficulties)
    assert found.keys() == expected.keys()
    for setting, (r40, r11) in expected.items():
        assert found[setting].r40 == pytest.approx(r40, abs=1e-9), setting
        assert found[setting].r11 == pytest.approx(r11, abs=1e-9), setting
    assert sum(1 < r40 < 99 for r40, _ in expected.values()) > 40


def test_averages_by_hand():
    values = np.zeros(41)
    values[:9] = [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25]
    assert Curve(values).r40 == pytest.approx((3 + 4 * 0.5 + 0.25) / 40 * 100)
    assert Curve(values).r11 == pytest.approx((1 + 0.5 + 0.25) / 11 * 100)


@pytest.mark.parametrize(("count", "r40"), [(1, 0), (2, 2.5), (40, 97.5), (41, 100), (200, 100)])
def test_fewer_than_41_labels_cannot_reach_100(count: int, r40: float):
    cars = [thing(place) for place in range(count)]
    found = score(labels_of(cars), detections_of(cars, [1.0] * count))
    for metric in Metric:
        assert found[Setting("Car", metric, "easy", Overlap.STRICT)].r40 == pytest.approx(r40)


def test_a_wrong_detection_counts_where_it_is_surer_than_a_right_one():
    cars = [thing(0), thing(1)]
    found = [*cars, thing(5)]
    assert curves(cars, found, [0.9, 0.8, 0.1]) == everywhere(1, 1)
    assert curves(cars, found, [0.9, 0.7, 0.8]) == everywhere(1, 2 / 3)
    # At 0.8 it is 1 of 2, but a higher recall has 2 of 3.
    assert curves(cars, found, [0.8, 0.7, 0.9]) == everywhere(2 / 3, 2 / 3)
    # A score equal to the threshold is in.
    assert curves(cars, found, [0.9, 0.8, 0.8]) == everywhere(1, 2 / 3)


def test_a_second_detection_of_a_label_is_wrong():
    assert curves([thing(0)], [thing(0), thing(0)], [0.5, 0.5]) == everywhere(1 / 2)
    assert curves([thing(0)], [thing(0), thing(0)], [0.5, 0.4]) == everywhere(1)


def test_thresholds_follow_scores_but_matches_follow_overlap():
    # IoU 0.9 / 1.1 and 0.95 / 1.05 with their own label; the second label's is surer than both.
    labels = [thing(0), thing(1)]
    found = [thing(0, shift=0.1), thing(0, shift=0.05), thing(1)]
    # Thresholds 0.9, 0.8 by score. At 0.6 there is none: the better box lies below all of them.
    assert curves(labels, found, [0.8, 0.6, 0.9]) == everywhere(1, 1)
    # Thresholds 0.9, 0.3: now both boxes of label 0 are in at 0.3, one of them too many.
    assert curves(labels, found, [0.9, 0.6, 0.3]) == everywhere(1, 2 / 3)


def test_a_match_needs_more_than_the_least_overlap():
    # Shifted by a share s, IoU is (1 - s) / (1 + s): 0.7 at 3/17, and 1/3 at a half.
    for shift, right in ((0.17, True), (0.18, False)):
        found = score(labels_of([thing(0)]), detections_of([thing(0, shift=shift)], [1.0]))
        for metric in Metric:
            assert curve(found, metric) == ([1.0] if right else []), (metric, shift)
    assert curves([thing(0)], [thing(0, shift=0.5)], [1.0]) == everywhere()
    half = score(
        labels_of([thing(0, "Pedestrian")]), detections_of([thing(0, "Pedestrian", shift=0.5)], [1])
    )
    for metric, r11 in ((Metric.AP_2D, 0), (Metric.AP_BEV, 100 / 11), (Metric.AP_3D, 100 / 11)):
        setting = Setting("Pedestrian", metric, "easy", Overlap.LOOSE)
        assert half[setting].r11 == pytest.approx(r11)
        assert half[setting._replace(overlap=Overlap.STRICT)].r11 == 0


def test_labels_too_hard_are_ignored_with_what_finds_them():
    cars = [thing(place) for place in range(4)]
    labels = labels_of(cars, truncation=[0, 0.15, 0.3, 0.51], occlusion=[0, 0, 1, 0])
    found = score(labels, detections_of([*cars, thing(9)], [0.1, 0.2, 0.3, 0.4, 0.9]))
    # One stray; easy has two labels, moderate and hard three.
    assert curve(found, level="easy") == [2 / 3, 2 / 3]
    assert curve(found, level="moderate") == [3 / 4] * 3
    assert curve(found, level="hard") == [3 / 4] * 3


def test_neighbouring_classes_are_ignored_and_others_are_wrong():
    for kind, neighbour in (("Car", "Van"), ("Pedestrian", "Person_sitting")):
        for other, expected in ((neighbour, 1.0), ("Truck", 0.5), ("Cyclist", 0.5)):
            labels = labels_of([thing(0, kind), thing(1, other)])
            found = score(labels, detections_of([thing(0, kind), thing(1, kind)], [0.1, 0.2]))
            assert curve(found, kind=kind) == [expected], (kind, other)
    # There is no neighbour the other way round: a Van found as such is nobody's.
    found = score(labels_of([thing(0, "Van")]), detections_of([thing(0, "Van")], [1.0]))
    assert all(not each.values.any() for each in found.values())


def test_heights_at_the_limit():
    # A label of exactly 25 pixels is ignored; a detection of exactly 25 counts.
    low, high = thing(0, height=25), thing(0, height=25.5)
    assert curves([low], [low], [1.0]) == everywhere()
    assert curves([high], [low], [1.0]) == everywhere(1)
    assert curves([thing(1)], [low, thing(1)], [0.9, 0.8]) == everywhere(1 / 2)
    assert curves([thing(1)], [thing(0, height=24.9), thing(1)], [0.9, 0.8]) == everywhere(1)


def test_a_low_detection_of_any_class_uses_a_label_up():
    label, low = thing(0, height=26), thing(0, "Cyclist", height=24.9)
    car = thing(0, height=26)
    # Alone it leaves the label neither found nor missed; the stray car stays wrong.
    assert curves([label, thing(1)], [low, thing(1)], [0.9, 0.8]) == everywhere(1)
    assert curves([label], [low], [0.9]) == everywhere()
    # In the first pass it is surer and takes the label: no threshold is left.
    assert curves([label], [low, car], [0.9, 0.8]) == everywhere()
    # In the second a detection that counts goes first, wherever it stands.
    assert curves([label], [low, car], [0.7, 0.8]) == everywhere(1)
    assert curves([label, thing(1)], [low, car, thing(1)], [0.7, 0.8, 0.6]) == everywhere(1, 1)
    assert curves([label, thing(1)], [car, low, thing(1)], [0.8, 0.7, 0.6]) == everywhere(1, 1)


def test_a_threshold_where_nothing_counts_has_precision_0():
    # First pass: the ignored label takes the low cyclist (0.9), the other the car (0.8). At 0.8 the
    # ignored label prefers the car, which counts, and nothing is left for the other.
    truck, label = thing(0, "Van", height=26), thing(0, height=26)
    low, car = thing(0, "Cyclist", height=24.9), thing(0, height=26)
    assert curves([truck, label], [low, car], [0.9, 0.8]) == everywhere()


def test_dont_care_excuses_in_the_image_only():
    stray = thing(5)
    area = ("DontCare", (500, 0, 560, 150), (0.0,) * 7)
    labels = labels_of([thing(0), area])
    found = score(labels, detections_of([thing(0), stray], [0.5, 0.9]))
    # The area covers the stray's upper 50 of 60 pixels: 0.83.
    assert curve(found, Metric.AP_2D) == [1.0]
    assert [curve(found, metric) for metric in IN_SPACE] == [[0.5], [0.5]]
    # Two thirds are too little for a car, enough for a pedestrian.
    area = ("DontCare", (500, 0, 560, 140), (0.0,) * 7)
    for kind, expected in (("Car", 0.5), ("Pedestrian", 1.0)):
        labels = labels_of([thing(0, kind), area])
        found = score(labels, detections_of([thing(0, kind), thing(5, kind)], [0.5, 0.9]))
        assert curve(found, Metric.AP_2D, kind) == [expected]


def test_a_detection_in_dont_care_may_still_be_right():
    area = ("DontCare", (0, 0, 1000, 1000), (0.0,) * 7)
    assert curves([thing(0), area], [thing(0)], [1.0])[Metric.AP_2D] == [1.0]


def test_orientation_similarity_by_hand():
    labels = labels_of([thing(0), thing(1)], alpha=[0.3, -3.0])
    found = [thing(0), thing(1), thing(5)]
    alpha = [0.3 + math.pi / 2, -3.0 + 2 * math.pi, 0.0]
    scores = score(labels, detections_of(found, [0.9, 0.8, 0.8], alpha))
    assert curve(scores, Metric.AP_2D) == [1.0, 2 / 3]
    assert curve(scores, Metric.AOS) == pytest.approx([0.5, 0.5])
    scores = score(labels, detections_of(found, [0.8, 0.9, 0.1], alpha))
    assert curve(scores, Metric.AOS) == pytest.approx([1.0, 0.75])


def test_no_orientation_similarity_without_alpha():
    scores = score(labels_of([thing(0)]), detections_of([thing(0), thing(1)], [1, 1], [0.1, -10]))
    assert {setting.metric for setting in scores} == set(Metric) - {Metric.AOS}


def test_nothing_found_or_nothing_to_find_is_0():
    none = detections_of([], [])
    for labels, detections in (
        (labels_of([thing(0)]), none),
        (labels_of([]), detections_of([thing(0)], [1.0])),
        (labels_of([]), none),
    ):
        scores = score(labels, detections)
        assert len(scores) == 4 * 3 * 3 * 2
        assert all(each.r40 == each.r11 == 0 for each in scores.values())


def test_kinds_are_known_in_any_case():
    kinds = ("CAR", "car")
    labels = replace(labels_of([thing(0), thing(1)]), kinds=kinds)
    scores = score(labels, replace(detections_of([thing(0), thing(1)], [1, 1]), kinds=kinds))
    assert curve(scores) == [1, 1]


def test_the_order_of_frames_and_of_detections_does_not_matter():
    labels, detections = many(40, seed=4)
    expected = score_kitti(labels, detections)
    generator = np.random.default_rng(5)
    mixed = {token: shuffled(detections[token], generator) for token in detections}
    same(expected, score_kitti(labels, mixed))
    same(expected, score_kitti(dict(reversed(labels.items())), detections))


def test_only_the_order_of_scores_matters():
    labels, detections = many(40, seed=6)
    bent = {
        token: replace(frame, scores=np.exp(3 * frame.scores) - 9)
        for token, frame in detections.items()
    }
    same(score_kitti(labels, detections), score_kitti(labels, bent))


def test_other_difficulties_may_be_asked_for():
    near = Difficulty(name="all", height=0, occlusion=3, truncation=1)
    labels = labels_of([thing(0, height=10)], truncation=[0.9], occlusion=[3])
    detections = detections_of([thing(0, height=10)], [1.0])
    scores = score_kitti({"a": labels}, {"a": detections}, [*KITTI_DIFFICULTIES, near])
    assert [curve(scores, level=level) for level in ("hard", "all")] == [[], [1.0]]


def test_depths_at_the_limit():
    # Strictly between: the label 30 m away counts in neither bin, what finds it is ignored.
    labels = labels_of([thing(place) for place in (1, 3, 4)])
    found = detections_of([thing(place) for place in (2, 3, 4, 7)], [0.9, 0.8, 0.7, 0.6])
    scores = score_kitti({"a": labels}, {"a": found}, ARGOVERSE_DISTANCES)
    got = {level.name: curve(scores, level=level.name) for level in ARGOVERSE_DISTANCES}
    assert got == {
        # The label at 10 m is missed, the detection at 20 m is wrong.
        "easy": [],
        "moderate": [2 / 3, 2 / 3],
        "hard": [2 / 3, 2 / 3],
        "0-30": [],
        "30-50": [1.0],
        "50-70": [],
    }


def test_labels_and_detections_are_of_the_same_frames():
    labels, none = labels_of([thing(0)]), detections_of([], [])
    with pytest.raises(DataError, match=r"2 frames have labels, 1 have .* 1 only .*\['b'\]"):
        score_kitti({"a": labels, "b": labels}, {"a": none})
    with pytest.raises(DataError, match=r"1 frames have labels, 2 have .*\['b'\]"):
        score_kitti({"a": labels}, {"a": none, "b": none})
    with pytest.raises(DataError, match="no frames to score"):
        score_kitti({}, {})


@pytest.mark.parametrize("field", ["bbox", "boxes", "scores"])
def test_detections_are_finite(field: str):
    detections = detections_of([thing(0)], [1.0])
    broken = np.full_like(getattr(detections, field), np.nan)
    with pytest.raises(ValueError, match="not finite"):
        score(labels_of([thing(0)]), replace(detections, **{field: broken}))
