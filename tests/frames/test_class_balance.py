"""Frames drawn by the classes that they show."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from frames.boxes import Boxes3D
from frames.class_balance import class_balanced
from frames.errors import DataError
from frames.frame import Frame
from frames.geometry import SE3

BARE = Frame(
    token="",
    scene="s",
    timestamp_us=0,
    global_from_ego=SE3.identity(),
    cameras=(),
    sweeps=(),
    boxes=Boxes3D.empty(),
    prev="",
    next="",
)


def showing(token: str, *labels: int) -> Frame:
    return replace(
        BARE,
        token=token,
        boxes=Boxes3D(torch.zeros(len(labels), 9), torch.tensor(labels, dtype=torch.int64)),
    )


def test_each_class_is_drawn_as_often():
    """Ten frames of cars, one of them with a bus (twice), one of nothing: 11 pairs, two classes."""
    frames = [*(showing(f"car-{n}", 0, 0) for n in range(9)), showing("both", 0, 3, 3)]
    drawn = class_balanced([*frames, showing("empty")], seed=0)
    found = Counter(frame.token for frame in drawn)
    assert len(drawn) == 2 * (11 // 2)
    assert found["empty"] == 0
    # Five for the bus, which one frame alone shows; the cars' five may add to it.
    assert 5 <= found["both"] <= 10


def test_what_is_equally_common_stays_so():
    frames = [showing(str(n), n % 10) for n in range(1000)]
    drawn = Counter(frame.boxes.labels.item() for frame in class_balanced(frames, seed=1))
    assert drawn == dict.fromkeys(range(10), 100)


def test_the_seed_decides():
    frames = [showing(str(n), n % 3) for n in range(60)]

    def tokens(seed: int) -> list[str]:
        return [frame.token for frame in class_balanced(frames, seed)]

    assert tokens(3) == tokens(3) != tokens(4)


def test_without_any_box_it_is_refused():
    with pytest.raises(DataError, match="none of 2 frames has a box; leave it out"):
        class_balanced([showing("a"), showing("b")], seed=0)
