import os
import resource
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from frames.boxes import Boxes3D
from frames.frame import Frame
from frames.geometry import SE3
from store.choices import Coverage
from store.errors import (
    FingerprintError,
    RowValueError,
    SealedStoreError,
    StoreExistsError,
    StoreWriteError,
)
from store.fingerprint import Fingerprint
from store.rows import RowValues, rows_of_frames
from store.values import checked_row
from store.writer import StoreWriter
from tests.store.building import (
    build,
    fingerprint,
    identities,
    tree,
    usual_values,
    write_pending,
)


def begin(path: Path, count: int = 3, coverage: Coverage = Coverage.FOREGROUND) -> StoreWriter:
    rows = identities(count)
    return StoreWriter.open(path, fingerprint(rows, coverage), rows)


def third_row(**changes: Any) -> list[RowValues]:
    made_for = fingerprint(identities(3))
    values = [usual_values(made_for, row) for row in range(3)]
    values[2].arrays.update({name.replace("__", "/"): array for name, array in changes.items()})
    return values


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"cells__bev_low": np.zeros((6, 4), np.float16)},
            r"bev_low' of row 'token-0002' has shape",
        ),
        ({"cells__bev_low": np.zeros((5, 3), np.float16)}, r"shape \(5, 3\), expected \(6, 3\)"),
        ({"boxes__yaw": np.zeros(3, np.float32)}, r"'boxes/yaw'.*shape \(3,\), expected \(2,\)"),
        ({"boxes__yaw": np.zeros(2, np.float64)}, r"is float64, expected float32"),
        ({"boxes__label": np.zeros(2, np.int32)}, r"is int32, expected int64"),
        ({"surprise": np.zeros(2)}, r"unplanned arrays \['surprise'\]"),
        ({"cells__index": np.full(6, 48, np.int32)}, r"cells/index. holds 48, expected 0 to 47"),
        ({"cells__index": np.full(6, -1, np.int32)}, r"cells/index. holds -1"),
        ({"cells__index": np.zeros((6, 1), np.int32)}, r"shape \(6, 1\), expected \(6,\)"),
        (
            {"cells__bev_low": np.full((6, 3), 1e5, np.float32)},
            r"bev_low'.*holds 100000.0, which float1",
        ),
        ({"cells__bev_low": np.full((6, 3), np.inf, np.float16)}, r"'token-0002' holds inf"),
        ({"boxes__yaw": np.full(2, np.nan, np.float32)}, r"'boxes/yaw'.*holds nan"),
    ],
)
def test_values_that_do_not_fit_the_plan_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
):
    writer = begin(tmp_path / "store")
    with pytest.raises(RowValueError, match=message):
        writer.write_part(range(3), third_row(**changes))
    assert writer.pending_parts == [range(3)]


def test_a_missing_array_and_a_wrong_frame_are_refused(tmp_path: Path):
    writer = begin(tmp_path / "store")
    values = third_row()
    del values[1].arrays["boxes/score"]
    with pytest.raises(RowValueError, match=r"'token-0001'.*lacks \['boxes/score'\]"):
        writer.write_part(range(3), values)
    with pytest.raises(RowValueError, match="found the values of 'token-0002', expected"):
        writer.write_part(range(3), third_row()[::-1])
    with pytest.raises(RowValueError, match="has 3 rows, found the values of 2"):
        writer.write_part(range(3), third_row()[:2])
    with pytest.raises(RowValueError, match="no part of this store"):
        writer.write_part(range(1, 3), third_row()[1:])


def test_float32_is_narrowed_where_the_plan_says_float16(tmp_path: Path):
    writer = begin(tmp_path / "store")
    writer.write_part(range(3), third_row(cells__bev_low=np.full((6, 3), 65_504, np.float32)))
    assert writer.pending_parts == []


@given(
    values=st.lists(st.floats(-65_504, 65_504, width=32), min_size=18, max_size=18),
    transposed=st.booleans(),
)
def test_float32_is_rounded_as_numpy_rounds(values: list[float], *, transposed: bool):
    float32s = np.array(values, np.float32)
    float32s = float32s.reshape(3, 6).T if transposed else float32s.reshape(6, 3)
    float32s.flags.writeable = False
    made_for = fingerprint(identities(3))
    row = checked_row(third_row(**{"cells/bev_low": float32s})[2], "token-0002", made_for)
    stored = dict(zip((spec.name for spec in made_for.stored), row, strict=True))["cells/bev_low"]
    assert stored.tobytes() == float32s.astype(np.float16).tobytes()


def test_unknown_velocities_in_the_ground_truth_are_kept(tmp_path: Path):
    values = third_row()
    values[2] = RowValues(
        token="token-0002",
        gt=Boxes3D(torch.full((2, 9), torch.nan), torch.zeros(2, dtype=torch.int64)),
        arrays=values[2].arrays,
    )
    writer = begin(tmp_path / "store")
    writer.write_part(range(3), values)
    assert len(writer.finalise()) == 64


def change(made_for: Fingerprint, **changes: Any) -> Fingerprint:
    return made_for.model_copy(update=changes)


def test_resuming_with_another_fingerprint_lists_what_differs(tmp_path: Path):
    rows = identities(3)
    made_for = fingerprint(rows)
    StoreWriter.open(tmp_path / "store", made_for, rows)
    other = change(
        made_for,
        grid=made_for.grid.model_copy(update={"cell_size": 1.2}),
        teacher=made_for.teacher.model_copy(update={"config": {"depth": 3}}),
        arrays=made_for.arrays[1:],
    )
    with pytest.raises(FingerprintError, match="does not match") as caught:
        StoreWriter.open(tmp_path / "store", other, rows, resume=True)
    assert caught.value.mismatches[1:] == (
        "grid.cell_size: found 1.0, expected 1.2",
        "teacher.config.depth: found 2, expected 3",
    )
    assert caught.value.mismatches[0].startswith("arrays.cells/bev_low: found {")


def test_resuming_with_other_poses_of_the_same_tokens_is_refused(tmp_path: Path):
    begin(tmp_path / "store")
    rows = identities(3)
    rows[1] = replace(rows[1], global_from_ego=np.eye(4))
    with pytest.raises(FingerprintError, match="other scenes, times, poses or neighbours"):
        StoreWriter.open(tmp_path / "store", fingerprint(rows), rows, resume=True)


def test_a_taken_destination_is_refused(tmp_path: Path):
    rows = identities(3)
    made_for = fingerprint(rows)
    build(tmp_path / "sealed", 3)
    before = tree(tmp_path / "sealed")
    with pytest.raises(SealedStoreError, match="choose another folder"):
        StoreWriter.open(tmp_path / "sealed", made_for, rows)
    assert tree(tmp_path / "sealed") == before
    with pytest.raises(StoreExistsError, match="holds something that is no store"):
        StoreWriter.open(tmp_path, made_for, rows)
    begin(tmp_path / "begun")
    with pytest.raises(StoreExistsError, match="unfinished store; go on with --resume"):
        StoreWriter.open(tmp_path / "begun", made_for, rows)
    (tmp_path / "file").touch()
    with pytest.raises(StoreExistsError, match="is a file"):
        StoreWriter.open(tmp_path / "file", made_for, rows)


def test_rows_that_cannot_be_told_apart_are_refused(tmp_path: Path):
    rows = identities(3)
    with pytest.raises(RowValueError, match="token 'token-0001' comes twice"):
        StoreWriter.open(tmp_path / "s", fingerprint(rows), [*rows, rows[1]])
    with pytest.raises(RowValueError, match="no rows"):
        StoreWriter.open(tmp_path / "s", fingerprint(rows), [])
    with pytest.raises(RowValueError, match="neighbours 1 and 3; expected -1 or a row below 3"):
        StoreWriter.open(tmp_path / "s", fingerprint(rows), identities(4)[:3])
    with pytest.raises(RowValueError, match=r"token_hash"):
        StoreWriter.open(tmp_path / "s", fingerprint(rows), identities(2))
    assert not (tmp_path / "s").exists()


def test_rows_of_frames_know_their_neighbours():
    frames = [
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
        for token, before, after in [("b", "a", "c"), ("c", "b", "d")]
    ]
    first, second = rows_of_frames(frames)
    assert (first.prev, first.next, second.prev, second.next) == (-1, 1, 0, -1)
    assert first.global_from_ego[:, 3].tolist() == [1, 2, 3, 1]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 160 kB; only root may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(disk)], check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("this user may not mount a tmpfs")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_loses_nothing_that_was_committed(small_disk: Path, tmp_path: Path):
    rows = identities(160)
    made_for = fingerprint(rows)
    writer = StoreWriter.open(small_disk / "store", made_for, rows)
    with pytest.raises(StoreWriteError, match=r"No space left.*of 10 parts.*--resume"):
        write_pending(writer, made_for)
    committed = 10 - len(writer.pending_parts)
    assert 0 < committed < 10
    assert not list(small_disk.rglob("*.tmp"))
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    writer = StoreWriter.open(small_disk / "store", made_for, rows, resume=True)
    assert 10 - len(writer.pending_parts) == committed
    write_pending(writer, made_for)
    writer.finalise()
    assert tree(small_disk / "store") == tree(build(tmp_path / "roomy", 160))


def test_a_read_only_disk_is_told(small_disk: Path):
    made_for = fingerprint(identities(3))
    writer = begin(small_disk / "store")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreWriteError, match=r"Read-only file system.*0 of 1 parts"):
        write_pending(writer, made_for)
    with pytest.raises(StoreWriteError, match="cannot begin the store"):
        begin(small_disk / "other")


def test_a_file_size_limit_while_sealing_is_told(tmp_path: Path):
    writer = begin(tmp_path / "store", 40)
    made_for = fingerprint(identities(40))
    write_pending(writer, made_for)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(StoreWriteError, match=r"cannot seal.*3 of 3 parts are committed"):
            writer.finalise()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    writer.finalise()
    assert tree(tmp_path / "store") == tree(build(tmp_path / "easy", 40))


def test_something_in_the_way_is_told(tmp_path: Path):
    writer = begin(tmp_path / "store")
    (tmp_path / "store/parts").rmdir()
    (tmp_path / "store/parts").touch()
    with pytest.raises(StoreWriteError, match="cannot write rows 0 to 2"):
        writer.write_part(range(3), third_row())
