import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frames.augment import BevAugmentConfig
from frames.heatmap import CENTER_HEAD
from store.choices import Coverage, Encoding
from store.copy import copy_store
from store.errors import DamagedRowError, FingerprintError, SealedStoreError, StoreExistsError
from store.fingerprint import DrawnViews, Fingerprint
from store.merge import MergeKind, plan_merge
from store.plan import plan_arrays
from store.reader import open_cache
from store.rows import RowValues
from store.verify import verify
from tests.store.building import NEEDS, SHAPES, build, tree
from tests.store.merging import dataset, piece
from tests.store.test_kill import check_kills

CELLS: tuple[str, ...] = ("bev_low", "heatmap", "cells")
REST: tuple[str, ...] = ("bev_high", "box")


def contents(path: Path, *, but: tuple[str, ...] = ("manifest",)) -> dict[str, bytes]:
    """The files of a store, without those that are to differ."""
    return {name: data for name, data in tree(path).items() if not name.startswith(but)}


def test_rows_of_several_stores_are_those_of_one_dump(tmp_path: Path):
    places = [
        piece(tmp_path / "a", range(5), change=lambda f: dataset(f, split="train")),
        piece(tmp_path / "b", range(5, 23), change=lambda f: dataset(f, split="val")),
        piece(
            tmp_path / "c",
            range(23, 40),
            change=lambda f: f.model_copy(update={"code_revision": "def"}),
        ),
    ]
    before = [tree(place) for place in places]
    planned = plan_merge(places)
    assert planned.kind is MergeKind.ROWS
    planned.write(tmp_path / "merged")
    assert [tree(place) for place in places] == before
    assert verify(tmp_path / "merged") == []
    whole = build(tmp_path / "whole", 40, Coverage.DENSE)
    assert contents(tmp_path / "merged") == contents(whole)
    made_for = open_cache(tmp_path / "merged").fingerprint
    assert made_for.dataset.split == "train+val"
    assert made_for.code_revision == "abc+def"
    assert made_for.sources == tuple(open_cache(place).manifest_hash for place in places)
    expected = open_cache(whole).fingerprint
    assert made_for.mismatches(expected) == [
        "code_revision: found 'abc+def', expected 'abc'",
        "dataset.split: found 'train+val', expected 'train'",
        f"sources: found {list(made_for.sources)!r}, expected []",
    ]


def test_targets_of_the_same_rows_are_those_of_one_dump(tmp_path: Path):
    coverage = Coverage.FOREGROUND
    first = piece(tmp_path / "first", range(19), coverage, arrays=CELLS)
    second = piece(
        tmp_path / "second",
        range(19),
        coverage,
        arrays=REST,
        change=lambda f: f.model_copy(update={"masks": ()}),
    )
    planned = plan_merge([second, first])
    assert planned.kind is MergeKind.TARGETS
    planned.write(tmp_path / "merged")
    assert verify(tmp_path / "merged") == []
    whole = build(tmp_path / "whole", 19, coverage)
    # The digests' columns follow the arrays, and those the order in which stores are given.
    but = ("manifest", "index/digest/c")
    assert contents(tmp_path / "merged", but=but) == contents(whole, but=but)
    merged, expected = open_cache(tmp_path / "merged"), open_cache(whole)
    assert merged.fingerprint.masks == (CENTER_HEAD,)
    for token in expected.tokens:
        assert merged.digests(token) == expected.digests(token)
        arrays = expected[token].arrays
        assert merged[token].arrays.keys() == arrays.keys()
        assert all(np.array_equal(merged[token].arrays[name], arrays[name]) for name in arrays)


def test_an_array_that_both_have_is_stored_once(tmp_path: Path):
    first = piece(tmp_path / "a", range(3), arrays=("bev_low", "cells"))
    second = piece(tmp_path / "b", range(3), arrays=("heatmap", "cells"))
    planned = plan_merge([first, second])
    names = [spec.name for spec in planned.fingerprint.arrays]
    assert names == ["bev_low", "cells/index", "heatmap_logit"]
    weights = [sum(map(len, contents(place).values())) for place in (first, second)]
    assert max(weights) < planned.size < sum(weights)
    planned.write(tmp_path / "merged")
    found = sum(map(len, contents(tmp_path / "merged").values()))
    assert abs(found - planned.size) < 0.02 * planned.size


def packed(made_for: Fingerprint) -> Fingerprint:
    """The same, features in eight bits with the ranges of their channels beside them."""
    arrays = plan_arrays(NEEDS, made_for.coverage, SHAPES, Encoding.UINT8)
    return made_for.model_copy(update={"arrays": arrays})


def test_packed_values_are_carried_as_they_are_stored(tmp_path: Path):
    places = [
        piece(tmp_path / "a", range(5), change=packed),
        piece(tmp_path / "b", range(5, 20), change=packed),
    ]
    plan_merge(places).write(tmp_path / "merged")
    once = piece(tmp_path / "once", range(20), change=packed)
    assert contents(tmp_path / "merged") == contents(once)
    assert {spec.dtype for spec in open_cache(once).fingerprint.arrays} >= {"uint8"}


def test_stored_views_stay_with_their_frames(tmp_path: Path):
    drawn = DrawnViews(views=3, ranges=BevAugmentConfig(flip_y=0.5, rotation=0.3), seed=4)
    places = [
        piece(tmp_path / "a", range(2), drawn=drawn),
        piece(tmp_path / "b", range(2, 7), drawn=drawn),
    ]
    plan_merge(places).write(tmp_path / "merged")
    once = piece(tmp_path / "once", range(7), drawn=drawn)
    assert contents(tmp_path / "merged") == contents(once)
    targets = [
        piece(tmp_path / name, range(7), arrays=arrays, drawn=drawn)
        for name, arrays in (("cells", CELLS), ("rest", REST))
    ]
    plan_merge(targets).write(tmp_path / "joined")
    but = ("manifest", "index/digest/c")
    assert contents(tmp_path / "joined", but=but) == contents(once, but=but)
    canonical = piece(tmp_path / "canonical", range(7), arrays=CELLS)
    with pytest.raises(FingerprintError, match="augmentation: found 'canonical', expected"):
        plan_merge([targets[1], canonical])


@pytest.mark.slow
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(cuts=st.sets(st.integers(1, 36), min_size=1, max_size=3))
def test_wherever_a_dump_is_cut_merging_gives_it_back(
    tmp_path_factory: pytest.TempPathFactory, whole: Path, cuts: set[int]
):
    folder = tmp_path_factory.mktemp("cut")
    ends = [0, *sorted(cuts), 37]
    places = [piece(folder / str(start), range(start, stop)) for start, stop in pairwise(ends)]
    plan_merge(places).write(folder / "merged")
    assert contents(folder / "merged") == contents(whole)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("whole") / "store", 37, Coverage.DENSE)


def altered_boxes(values: RowValues) -> None:
    if values.token == "token-0002":
        values.gt.values[0, 0] += 1


def altered_map(values: RowValues) -> None:
    values.arrays["bev_high"][0] += 1


Make = Callable[[Path], Path]


@pytest.mark.parametrize(
    ("make", "lines"),
    [
        (
            lambda path: piece(
                path,
                range(3, 6),
                change=lambda f: dataset(f, version="v2", ground_truth_filter={}).model_copy(
                    update={
                        "classes": ("car", "bicycle"),
                        "coverage": Coverage.FOREGROUND,
                        "arrays": tuple(
                            spec.model_copy(update={"max_error": 0.25 * spec.max_error})
                            for spec in f.arrays
                        ),
                    }
                ),
            ),
            [
                "classes: found ['car', 'bicycle'], expected ['car', 'pedestrian']",
                "coverage: found 'foreground', expected 'dense'",
                "dataset.ground_truth_filter.min_points: found nothing, expected 1",
                "dataset.version: found 'v2', expected 'v1'",
                *(
                    f"arrays.{name}.max_error: found {2**-13}, expected {2**-11}"
                    for name in ("bev_high", "bev_low", "boxes/box_code", "heatmap_logit")
                ),
            ],
        ),
        (
            lambda path: piece(
                path,
                range(3, 6),
                change=lambda f: f.model_copy(
                    update={
                        "teacher": f.teacher.model_copy(update={"checkpoint_sha256": "cd" * 32}),
                        "grid": f.grid.model_copy(update={"cell_size": 0.5}),
                    }
                ),
            ),
            [
                "grid.cell_size: found 0.5, expected 1.0",
                f"teacher.checkpoint_sha256: found '{'cd' * 32}', expected '{'ab' * 32}'",
            ],
        ),
        (
            lambda path: piece(path, range(1, 5)),
            [
                "2 of its 4 frames are in {first} too ('token-0001', 'token-0002'); expected none, "
                "or the same frames in the same order"
            ],
        ),
        (
            lambda path: piece(path, range(3)),
            ["brings no array that the stores before it lack"],
        ),
        (
            lambda path: piece(path, range(3), alter=altered_boxes),
            [
                "brings no array that the stores before it lack",
                "gt/values: other ground truth in 1 rows ('token-0002')",
            ],
        ),
        (
            lambda path: piece(path, range(3), alter=altered_map, arrays=("bev_high",)),
            [
                "brings no array that the stores before it lack",
                "bev_high: other values in 3 rows ('token-0000', 'token-0001', 'token-0002')",
            ],
        ),
        (
            lambda path: piece(
                path, range(3, 6), change=lambda f: f.model_copy(update={"masks": ()})
            ),
            [f"masks: found [], expected [{CENTER_HEAD.model_dump(mode='json')!r}]"],
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_all_that_differs(
    tmp_path: Path, make: Make, lines: list[str]
):
    first, second = piece(tmp_path / "first", range(3)), make(tmp_path / "second")
    with pytest.raises(FingerprintError, match="does not match") as refused:
        plan_merge([first, second])
    assert list(refused.value.mismatches) == [
        f"{second}: {line.format(first=first) if '{first}' in line else line}" for line in lines
    ]


def test_a_destination_that_holds_something_else_is_refused(tmp_path: Path):
    places = [piece(tmp_path / "a", range(3)), piece(tmp_path / "b", range(3, 6))]
    planned = plan_merge(places)
    before = tree(places[0])
    with pytest.raises(SealedStoreError, match="never changed; choose another folder"):
        planned.write(places[0])
    assert tree(places[0]) == before
    with pytest.raises(StoreExistsError, match="holds something that is no store"):
        planned.write(tmp_path)
    planned.write(tmp_path / "merged")
    after = tree(tmp_path / "merged")
    assert planned.write(tmp_path / "merged") == open_cache(tmp_path / "merged").manifest_hash
    assert tree(tmp_path / "merged") == after
    with pytest.raises(SealedStoreError, match="never changed"):
        plan_merge(places[::-1]).write(tmp_path / "merged")


def test_a_damaged_source_stops_the_merge_and_a_whole_one_lets_it_go_on(tmp_path: Path):
    good = piece(tmp_path / "b", range(20, 40))
    places = [piece(tmp_path / "a", range(20)), shutil.copytree(good, tmp_path / "bad")]
    shard = places[1] / "bev_high/c/1/0/0/0"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DamagedRowError, match="'bev_high' of row 'token-0036' is damaged"):
        plan_merge(places).write(tmp_path / "merged")
    done: list[int] = []
    plan_merge([places[0], good]).write(tmp_path / "merged", done.append)
    assert done == [32, 8], "what had been committed was not written again"
    plan_merge([places[0], good]).write(tmp_path / "undisturbed")
    assert tree(tmp_path / "merged") == tree(tmp_path / "undisturbed")


def test_values_that_differ_behind_the_same_digest_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # No store that this project writes is like that; one that is made to deceive may be.
    for module in ("reader", "writer"):
        monkeypatch.setattr(f"store.{module}.digest", lambda _values: 7)
    first = piece(tmp_path / "a", range(3), arrays=("bev_low", "bev_high"))
    second = piece(tmp_path / "b", range(3), arrays=("bev_high", "heatmap"), alter=altered_map)
    planned = plan_merge([first, second])
    with pytest.raises(FingerprintError, match="bev_high: other values in 1 rows"):
        planned.write(tmp_path / "merged")


def test_stores_behind_urls_give_the_same_bytes(tmp_path: Path, bucket: str):
    places = [piece(tmp_path / "a", range(20)), piece(tmp_path / "b", range(20, 23))]
    copy_store(places[0], f"{bucket}/a")
    plan_merge(places).write(tmp_path / "local")
    plan_merge([f"{bucket}/a", places[1]]).write(tmp_path / "remote")
    assert tree(tmp_path / "remote") == tree(tmp_path / "local")


@pytest.fixture
def halves(tmp_path: Path) -> str:
    """A job for ``dump_process``."""
    places = [piece(tmp_path / "a", range(11)), piece(tmp_path / "b", range(11, 19))]
    return "merge:" + ",".join(map(str, places))


def test_a_killed_merge_goes_on_to_the_same_bytes(tmp_path: Path, halves: str):
    (tmp_path / "points").mkdir()
    check_kills(tmp_path / "points", halves, 67, least=3)


@pytest.mark.slow
def test_a_merge_may_be_killed_before_every_change_to_the_disk(tmp_path: Path, halves: str):
    (tmp_path / "points").mkdir()
    check_kills(tmp_path / "points", halves, 1, least=100)
