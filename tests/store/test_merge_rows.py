"""The rows of several stores against those of one dump of all their frames."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frames.augment import BevAugmentConfig
from frames.boxes import Boxes3D
from frames.frame import Frame
from frames.geometry import SE3
from store.fingerprint import Augmentation, DrawnViews
from store.merge_rows import joined_rows
from store.rows import RowIdentity, rows_of_frames

VIEWS = DrawnViews(views=2, ranges=BevAugmentConfig(flip_y=0.5), seed=1)


def scene(name: str, times: Sequence[int]) -> list[Frame]:
    """Its frames at these times, each the one's before the next."""
    tokens = ["", *(f"{name}{k}" for k in range(len(times))), ""]
    return [
        Frame(
            token=tokens[k],
            scene=name,
            timestamp_us=time,
            global_from_ego=SE3.identity(),
            cameras=(),
            sweeps=(),
            boxes=Boxes3D.empty(),
            prev=tokens[k - 1],
            next=tokens[k + 1],
        )
        for k, time in enumerate(times, start=1)
    ]


def links(rows: Iterable[RowIdentity]) -> list[tuple[str, int, int, int]]:
    return [(row.token, row.view, row.prev, row.next) for row in rows]


@given(data=st.data(), augmentation=st.sampled_from(["canonical", VIEWS]))
def test_wherever_scenes_are_cut_and_whatever_is_missing(
    data: st.DataObject, augmentation: Augmentation
):
    """Scenes of an uneven 2 Hz, any frames in any of three stores, some in none."""
    stores: list[list[Frame]] = [[], [], []]
    for name in "ab":
        start, count = data.draw(st.integers(0, 2_000_000)), data.draw(st.integers(3, 9))
        jitter = data.draw(st.lists(st.integers(-45_000, 45_000), min_size=count, max_size=count))
        frames = scene(name, [start + 500_000 * k + late for k, late in enumerate(jitter)])
        # The scene's first frames tell how far its frames are apart.
        stores[0] += frames[:2]
        for frame in frames[2:]:
            chosen = data.draw(st.integers(0, 3))
            if chosen < len(stores):
                stores[chosen].append(frame)
    stores = data.draw(st.permutations([frames for frames in stores if frames]))
    rows = joined_rows(rows_of_frames(frames, augmentation) for frames in stores)
    assert links(rows) == links(rows_of_frames([*chain(*stores)], augmentation))


A = scene("a", range(0, 100, 10))


def test_merged_again_with_what_was_missing_between():
    first = joined_rows(map(rows_of_frames, (A[:4], A[6:])))
    assert [row.prev for row in first] == [-1, 0, 1, 2, -1, 4, 5, 6]
    rows = joined_rows([first, rows_of_frames(A[4:6])])
    assert links(rows) == links(rows_of_frames([*A[:4], *A[6:], *A[4:6]]))


@pytest.mark.parametrize(
    "stores",
    [
        # Frames without times that belong to no sequence, as KITTI's.
        [[replace(f, timestamp_us=0, prev="", next="") for f in part] for part in (A[:4], A[4:])],
        # No two consecutive frames in one store: how far they are apart is not known.
        [A[::2], A[1::2]],
        # Further apart than the others: a frame may be missing, though here none is.
        [A[:4], [replace(f, timestamp_us=f.timestamp_us + 5) for f in A[4:]]],
        # One store had both frames, and its data set told it that they are not neighbours.
        [
            [*A[:4], *(replace(f, timestamp_us=f.timestamp_us - 10) for f in A[5:])],
            scene("b", [0, 10]),
        ],
    ],
)
def test_what_is_not_known_is_not_linked(stores: list[list[Frame]]):
    alone = chain.from_iterable(map(rows_of_frames, stores))
    rows = joined_rows(map(rows_of_frames, stores))
    assert [(row.prev < 0, row.next < 0) for row in rows] == [
        (row.prev < 0, row.next < 0) for row in alone
    ]
