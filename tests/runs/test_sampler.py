import threading
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runs.sampler import WINDOW, Blocks, StepSampler


def nothing(_indices: Sequence[int]) -> None:
    pass


def sampler(of: Sequence[int], total: int, seed: int = 3) -> StepSampler:
    return StepSampler(len(of), total, seed, Blocks(of, nothing))


def indices(samples: StepSampler) -> list[int]:
    return [index for index, _ in samples]


# Blocks of any sizes in any order: a run may leave frames out, or list them otherwise.
scattered = st.lists(st.integers(0, 40), min_size=1, max_size=120)


def test_one_pass_sees_every_frame_once():
    assert sorted(indices(StepSampler(7, 7, seed=0))) == list(range(7))


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


@given(of=scattered, start=st.integers(0, 300))
def test_with_blocks_too_each_pass_is_a_permutation_and_resumes(of: list[int], start: int):
    size = len(of)
    whole = list(sampler(of, 3 * size))
    for first in range(0, 3 * size, size):
        assert sorted(index for index, _ in whole[first : first + size]) == list(range(size))
    resumed = sampler(of, 3 * size)
    resumed.start = min(start, 3 * size)
    assert list(resumed) == whole[resumed.start :]


@given(of=scattered)
def test_a_window_of_blocks_is_finished_before_the_next_begins(of: list[int]):
    order = [of[index] for index in indices(sampler(of, len(of)))]
    first = {block: order.index(block) for block in set(order)}
    last = {block: len(order) - 1 - order[::-1].index(block) for block in set(order)}
    begun = sorted(first, key=first.__getitem__)
    for k in range(0, len(begun), WINDOW):
        window, later = begun[k : k + WINDOW], begun[k + WINDOW :]
        assert all(last[block] < first[other] for block in window for other in later)


def test_a_window_mixes_its_blocks_and_the_windows_change():
    of = [index // 16 for index in range(16 * 100)]
    order = [of[index] for index in indices(sampler(of, 2 * len(of)))]
    assert len(set(order[: 16 * WINDOW])) == WINDOW
    # Sixteen in a row of one block would be no shuffle: 64 draws of 16 blocks miss hardly any.
    assert len(set(order[:64])) > 12
    assert set(order[: 16 * WINDOW]) != set(order[len(of) :][: 16 * WINDOW])


def test_the_next_window_is_fetched_while_one_is_yielded():
    of = [index // 2 for index in range(2 * 3 * WINDOW)]
    fetched: list[list[int]] = []
    arrived = threading.Semaphore(0)

    def fetch(indices: Sequence[int]) -> None:
        fetched.append(sorted(indices))
        arrived.release()

    stream = iter(StepSampler(len(of), len(of), 0, Blocks(of, fetch)))
    next(stream)
    for _ in range(2 * WINDOW):
        assert arrived.acquire(timeout=10)
    # Two windows, block by block; the third is left until the second begins.
    assert len(fetched) == 2 * WINDOW
    assert all(of[a] == of[b] for a, b in fetched)
    ahead = {of[a] for a, _ in fetched}
    yielded = {of[next(stream)[0]] for _ in range(2 * 2 * WINDOW - 1)}
    assert yielded <= ahead
    for _ in range(WINDOW):
        assert arrived.acquire(timeout=10)
    assert {of[a] for a, _ in fetched} == set(of)


def test_nothing_is_fetched_beyond_the_runs_end():
    fetched: list[Sequence[int]] = []
    of = list(range(3 * WINDOW))
    assert len(list(StepSampler(len(of), 5, 0, Blocks(of, fetched.append)))) == 5
    assert len(fetched) <= WINDOW


def test_a_fetch_that_fails_ahead_leaves_the_stream_alone():
    def fail(_indices: Sequence[int]) -> None:
        raise OSError("the line is cut")

    of = list(range(40))
    assert indices(StepSampler(40, 40, 3, Blocks(of, fail))) == indices(sampler(of, 40))


@pytest.mark.parametrize("total", [0, 3])
def test_a_stream_that_is_left_ends_its_thread(total: int):
    stream = iter(sampler(list(range(9)), total))
    next(stream, None)
    del stream
    left = [thread for thread in threading.enumerate() if thread.name.startswith("fetch-ahead")]
    for thread in left:
        thread.join(timeout=10)
        assert not thread.is_alive()
