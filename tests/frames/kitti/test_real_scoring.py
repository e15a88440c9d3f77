"""Real labels scored against themselves."""

from pathlib import Path

import numpy as np
import pytest

from frames.detection_classes import KITTI_CLASSES
from frames.errors import DataError
from frames.kitti.difficulty import KITTI_DIFFICULTIES
from frames.kitti.labels import read_objects
from frames.kitti.scoring import (
    KittiDetections,
    KittiLabels,
    Metric,
    as_detections,
    as_labels,
    score_kitti,
)

DATA = Path(__file__).parents[4] / "shared" / "data"
FILES = [
    *(DATA / "kitti_object" / "training" / "label_2").glob("*.txt"),
    *(DATA / "kitti_lidar32" / "training" / "label_2").glob("*.txt"),
]
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not FILES, reason=f"no real KITTI labels under {DATA}"),
]


def detections_of_labels(labels: KittiLabels, scores: np.ndarray) -> KittiDetections:
    kept = [i for i, kind in enumerate(labels.kinds) if kind in KITTI_CLASSES]
    return KittiDetections(
        kinds=tuple(labels.kinds[i] for i in kept),
        alpha=labels.alpha[kept],
        bbox=labels.bbox[kept],
        boxes=labels.boxes[kept],
        scores=scores[kept],
    )


def counted(labels: KittiLabels, kind: str, level: int) -> int:
    difficulty = KITTI_DIFFICULTIES[level]
    return sum(
        labels.kinds[i] == kind
        and labels.occlusion[i] <= difficulty.occlusion
        and labels.truncation[i] <= difficulty.truncation
        and labels.bbox[i, 3] - labels.bbox[i, 1] > difficulty.height
        for i in range(len(labels.kinds))
    )


@pytest.mark.parametrize("seed", range(3))
def test_labels_against_themselves_are_right_at_every_recall(seed: int):
    labels = {path.stem: as_labels(read_objects(path)) for path in FILES}
    generator = np.random.default_rng(seed)
    scores = score_kitti(
        labels,
        {
            token: detections_of_labels(frame, generator.random(len(frame.kinds)))
            for token, frame in labels.items()
        },
    )
    levels = {difficulty.name: i for i, difficulty in enumerate(KITTI_DIFFICULTIES)}
    for setting, found in scores.items():
        count = sum(
            counted(frame, setting.kind, levels[setting.difficulty]) for frame in labels.values()
        )
        assert found.r40 == pytest.approx(max(min(count, 41) - 1, 0) / 40 * 100), setting
    full = [s for s, found in scores.items() if s.kind == "Car" and found.r40 == 100]
    assert {s.metric for s in full} == set(Metric)


def test_a_result_file_without_scores_is_refused():
    with pytest.raises(DataError, match="have no score: expected result files"):
        as_detections(read_objects(FILES[0]))
