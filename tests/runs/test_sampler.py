from hypothesis import given
from hypothesis import strategies as st

from runs.sampler import StepSampler


def test_one_pass_sees_every_frame_once():
    indices = [index for index, _ in StepSampler(7, 7, seed=0)]
    assert sorted(indices) == list(range(7))


def test_passes_differ_and_positions_count_on():
    examples = list(StepSampler(5, 15, seed=0))
    assert [position for _, position in examples] == list(range(15))
    orders = {tuple(index for index, _ in examples[k : k + 5]) for k in (0, 5, 10)}
    assert len(orders) > 1


@given(size=st.integers(1, 9), total=st.integers(0, 30), start=st.integers(0, 30))
def test_a_resumed_stream_is_the_rest_of_the_whole(size: int, total: int, start: int):
    whole, resumed = StepSampler(size, total, seed=3), StepSampler(size, total, seed=3)
    resumed.start = min(start, total)
    assert list(resumed) == list(whole)[resumed.start :]
