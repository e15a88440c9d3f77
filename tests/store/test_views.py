"""Several views of a frame: rows side by side, found by token and view, none taken for another."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from frames.augment import BevAugmentConfig
from frames.boxes import Boxes3D
from frames.frame import Frame
from frames.geometry import SE3
from store.choices import Coverage
from store.errors import (
    DamagedStoreError,
    FingerprintError,
    RowValueError,
    UnknownTokenError,
)
from store.fingerprint import DrawnViews, Fingerprint
from store.match import require_views
from store.reader import open_cache
from store.rows import RowIdentity, RowValues, rows_of_frames, token_hash
from store.summary import summary
from store.verify import verify
from store.writer import StoreWriter
from tests.store.building import build, fingerprint, row_values, tree

RANGES = BevAugmentConfig(rotation=0.4, scale=(0.9, 1.1), flip_x=0.5, flip_y=0.5, shift=0.5)
VIEWS = DrawnViews(views=3, ranges=RANGES, seed=5)


def frames_of_one_scene(count: int) -> list[Frame]:
    tokens = ["", *(f"f{index}" for index in range(count)), ""]
    return [
        Frame(
            token=token,
            scene="s",
            timestamp_us=7,
            global_from_ego=SE3.from_yaw(0.5, [1.0, 2.0, 3.0]),
            cameras=(),
            sweeps=(),
            boxes=Boxes3D.empty(),
            prev=before,
            next=after,
        )
        for before, token, after in zip(tokens, tokens[1:-1], tokens[2:], strict=False)
    ]


def made_for(rows: list[RowIdentity], coverage: Coverage = Coverage.FOREGROUND) -> Fingerprint:
    document = fingerprint(rows, coverage).model_dump()
    dataset = document["dataset"] | {"token_hash": token_hash(r.token for r in rows if not r.view)}
    return Fingerprint(**(document | {"dataset": dataset, "augmentation": VIEWS}))


def values(of: Fingerprint, rows: list[RowIdentity], row: int) -> RowValues:
    return row_values(of, rows[row].token, boxes=row % 4, cells=2 * (row % 4), seed=row)


def begin(path: Path, count: int, coverage: Coverage) -> tuple[StoreWriter, list[RowIdentity]]:
    rows = rows_of_frames(frames_of_one_scene(count), VIEWS)
    return StoreWriter.open(path, made_for(rows, coverage), rows), rows


def write(writer: StoreWriter, rows: list[RowIdentity], part: range) -> None:
    writer.write_part(part, [values(writer.fingerprint, rows, row) for row in part])


def test_views_of_a_frame_are_rows_side_by_side():
    rows = rows_of_frames(frames_of_one_scene(3), VIEWS)
    assert [(row.token, row.view) for row in rows[2:7]] == [
        ("f0", 2),
        ("f1", 0),
        ("f1", 1),
        ("f1", 2),
        ("f2", 0),
    ]
    # The neighbours of view 1 of the middle frame are the views 1 before and after.
    assert (rows[4].prev, rows[4].next) == (1, 7)
    assert (rows[1].prev, rows[1].next, rows[7].next) == (-1, 4, -1)


def test_a_views_augmentation_depends_on_seed_token_and_number_alone():
    rows = rows_of_frames(frames_of_one_scene(3), VIEWS)
    alone = rows_of_frames(frames_of_one_scene(2)[1:], VIEWS)
    assert [row.augment.matrix.tolist() for row in alone] == [
        row.augment.matrix.tolist() for row in rows[3:6]
    ]
    more = VIEWS.model_copy(update={"views": 9})
    assert more.draw("f1", 2).matrix.equal(rows[5].augment.matrix)
    other = VIEWS.model_copy(update={"seed": 6})
    matrices = {
        str(row.bev_augment) for row in [*rows, *rows_of_frames(frames_of_one_scene(3), other)]
    }
    assert len(matrices) == 18
    for row in rows:
        assert 0.9 <= row.augment.scale <= 1.1


def test_one_view_is_the_frame_as_it_is():
    (row,) = rows_of_frames(frames_of_one_scene(1))
    assert row.augment.is_identity
    boxes = torch.tensor([[1.0, 2, 3, 4, 5, 6, 3.3, 0, 0]])
    assert row.augment.boxes(boxes).equal(boxes)


@pytest.mark.parametrize("coverage", list(Coverage))
def test_each_view_comes_back_as_it_was_given(tmp_path: Path, coverage: Coverage):
    """Seven frames are 21 rows in two parts; the cut goes through the sixth frame."""
    writer, rows = begin(tmp_path / "store", 7, coverage)
    for part in writer.parts:
        write(writer, rows, part)
    writer.finalise()
    cache = open_cache(tmp_path / "store")
    assert (cache.views, len(cache), cache.tokens) == (3, 7, tuple(f"f{i}" for i in range(7)))
    for row, identity in enumerate(rows):
        given, found = (
            values(cache.fingerprint, rows, row),
            cache.row(identity.token, identity.view),
        )
        assert (found.token, found.view) == (identity.token, identity.view)
        assert found.augment.matrix.numpy().tobytes() == identity.bev_augment.tobytes()
        assert found.gt.values.equal(given.gt.values)
        for name, array in given.arrays.items():
            np.testing.assert_array_equal(found.arrays[name], array)
    assert cache["f5"].augment.matrix.equal(cache.row("f5", view=0).augment.matrix)
    for view in (3, -1):
        with pytest.raises(UnknownTokenError, match=f"no view {view} of 'f1': each frame has 3"):
            cache.row("f1", view)
    facts = summary(tmp_path / "store")
    assert (facts["rows"], facts["fingerprint"]["augmentation"]["views"]) == (21, 3)
    gt = next(array for array in facts["arrays"] if array["name"] == "gt/values")
    boxes = sum(row % 4 for row in range(21))
    assert gt["raw_bytes_per_frame"] == pytest.approx(boxes * 36 / 7)


def test_parts_in_any_order_and_a_resumed_dump_are_the_same_bytes(tmp_path: Path):
    writer, rows = begin(tmp_path / "one", 11, Coverage.DENSE)
    for part in writer.parts:
        write(writer, rows, part)
    writer.finalise()
    writer, rows = begin(tmp_path / "two", 11, Coverage.DENSE)
    write(writer, rows, writer.parts[2])
    writer = StoreWriter.open(tmp_path / "two", writer.fingerprint, rows, resume=True)
    for part in reversed(writer.pending_parts):
        write(StoreWriter.join(tmp_path / "two", writer.plan_hash), rows, part)
    writer.finalise()
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_an_unfinished_store_has_the_frames_whose_views_are_all_there(tmp_path: Path):
    writer, rows = begin(tmp_path / "store", 11, Coverage.DENSE)
    write(writer, rows, range(16, 32))
    cache = open_cache(tmp_path / "store", allow_incomplete=True)
    # Rows 16 to 31: the last two views of f5, f6 to f9 whole, two views of f10.
    assert cache.tokens == ("f6", "f7", "f8", "f9")
    found = cache.row("f7", 2)
    assert found.augment.matrix.equal(rows[23].augment.matrix)
    np.testing.assert_array_equal(
        found.arrays["bev_high"], values(cache.fingerprint, rows, 23).arrays["bev_high"]
    )


def test_a_damaged_view_is_named(tmp_path: Path):
    writer, rows = begin(tmp_path / "store", 4, Coverage.FOREGROUND)
    write(writer, rows, writer.parts[0])
    writer.finalise()
    chunk = tmp_path / "store/gt/labels/c/0"
    data = bytearray(chunk.read_bytes())
    before = sum(row % 4 for row in range(7))
    data[8 * before] ^= 1
    chunk.write_bytes(data)
    cache = open_cache(tmp_path / "store")
    cache.row("f2", 0)
    with pytest.raises(DamagedStoreError, match="'gt/labels' of row 'f2 view 1' is damaged"):
        cache.row("f2", 1)
    assert verify(tmp_path / "store") == ["gt/labels/c/0 is not as it was written"]


def swapped(rows: list[RowIdentity]) -> list[RowIdentity]:
    return [rows[1], rows[0], *rows[2:]]


def of_another_frame(rows: list[RowIdentity]) -> list[RowIdentity]:
    return [*rows[:4], replace(rows[4], token="f0"), *rows[5:]]


@pytest.mark.parametrize(
    ("disturb", "message"),
    [
        (swapped, "row 0 is view 1 of 'f0'; expected the 3 views of each frame side by side"),
        (of_another_frame, "row 4 is view 1 of 'f0'; expected"),
        (lambda rows: [*rows, *rows[:3]], "token 'f0' comes twice"),
        (lambda rows: [replace(row, next=-1) for row in rows[:5]], "5 rows are not 3 views of"),
    ],
)
def test_rows_out_of_order_are_refused(tmp_path: Path, disturb: Any, message: str):
    rows = rows_of_frames(frames_of_one_scene(3), VIEWS)
    with pytest.raises(RowValueError, match=re.escape(message)):
        StoreWriter.open(tmp_path / "store", made_for(rows), disturb(rows))


def test_resuming_with_other_augmentations_is_refused(tmp_path: Path):
    writer, rows = begin(tmp_path / "store", 3, Coverage.FOREGROUND)
    rows[1] = replace(rows[1], bev_augment=rows[2].bev_augment)
    with pytest.raises(FingerprintError, match="or other augmentations"):
        StoreWriter.open(tmp_path / "store", writer.fingerprint, rows, resume=True)


@pytest.mark.parametrize("change", [{"bev_augment": 2 * np.eye(2, 3, dtype=np.float32)}, {}])
def test_a_canonical_store_with_a_matrix_is_no_store(tmp_path: Path, change: dict[str, Any]):
    (row,) = rows_of_frames(frames_of_one_scene(1))
    rows = [replace(row, **change)]
    of = fingerprint(rows)
    writer = StoreWriter.open(tmp_path / "store", of, rows)
    write(writer, rows, range(1))
    if change:
        with pytest.raises(DamagedStoreError, match="contradicts its manifest"):
            writer.finalise()
    else:
        writer.finalise()


def test_views_must_differ():
    with pytest.raises(ValidationError, match="bev_augment is off"):
        DrawnViews(views=2, ranges=BevAugmentConfig(), seed=0)
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        DrawnViews(views=1, ranges=RANGES, seed=0)


def test_a_student_replays_the_ranges_of_the_cache_or_has_none(tmp_path: Path):
    writer, rows = begin(tmp_path / "store", 3, Coverage.FOREGROUND)
    write(writer, rows, writer.parts[0])
    writer.finalise()
    cache = open_cache(tmp_path / "store")
    require_views(cache, RANGES)
    require_views(cache, BevAugmentConfig())
    with pytest.raises(FingerprintError, match="replays the views") as caught:
        require_views(cache, RANGES.model_copy(update={"rotation": 0.3, "flip_x": 0.0}))
    assert caught.value.mismatches == (
        "augmentation.ranges.flip_x: found 0.5, expected 0.0",
        "augmentation.ranges.rotation: found 0.4, expected 0.3",
    )
    require_views(open_cache(build(tmp_path / "canonical", 2)), RANGES)
