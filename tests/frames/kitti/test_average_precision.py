import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from frames.kitti.average_precision import score_thresholds
from tests.frames.kitti.literal_scoring import literal_thresholds


def test_thresholds_by_hand():
    # Steps of 1/4 recall: every score is nearest to some of the 41 recalls.
    scores = np.array([0.2, 0.9, 0.5])
    assert score_thresholds(scores, 4).tolist() == [0.9, 0.5, 0.2]
    # 80 labels, all found: the first, then about every second, and the last.
    found = score_thresholds(np.arange(80, 0, -1) / 100, 80)
    assert len(found) == 41
    assert found[[0, 1, 2, -2, -1]].tolist() == [0.8, 0.79, 0.77, 0.03, 0.01]


def test_no_true_positives_no_thresholds():
    assert score_thresholds(np.zeros(0), 5).shape == (0,)
    assert score_thresholds(np.zeros(0), 0).shape == (0,)


@given(st.data())
def test_thresholds_are_those_of_the_literal_reading(data: st.DataObject):
    labels = data.draw(st.integers(1, 400))
    count = data.draw(st.integers(0, labels))
    seed = data.draw(st.integers(0, 2**16))
    scores = np.random.default_rng(seed).random(count).round(2)
    expected = literal_thresholds(scores.tolist(), labels)
    assert score_thresholds(scores, labels).tolist() == expected
    assert len(expected) <= 41
