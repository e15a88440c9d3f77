import numpy as np
import pytest

from frames.kitti.scoring import score_kitti
from tests.frames.kitti.literal_scoring import literal_scores
from tests.frames.kitti.scoring_cases import random_frame


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_the_protocol_read_literally(seed: int):
    generator = np.random.default_rng(seed)
    frames = [random_frame(generator) for _ in range(60)]
    tokens = [str(i) for i in range(len(frames))]
    labels = dict(zip(tokens, [labels for labels, _ in frames], strict=True))
    detections = dict(zip(tokens, [detections for _, detections in frames], strict=True))
    found = score_kitti(labels, detections)
    expected = literal_scores(frames)
    assert found.keys() == expected.keys()
    for setting, (r40, r11) in expected.items():
        assert found[setting].r40 == pytest.approx(r40, abs=1e-9), setting
        assert found[setting].r11 == pytest.approx(r11, abs=1e-9), setting
    assert sum(1 < r40 < 99 for r40, _ in expected.values()) > 40
