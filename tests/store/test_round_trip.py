import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from store import layout
from store.choices import Coverage, Encoding
from store.dump_plan import Plan
from store.errors import (
    DamagedRowError,
    IncompleteStoreError,
    MissingTargetError,
    NotACacheError,
    UnknownTokenError,
)
from store.files import HASH_KEY, sealed_json
from store.reader import Cache, open_cache
from store.rows import CachedRow, RowValues
from store.schema import Places
from store.summary import summary
from store.unsealed import UnsealedRows
from store.verify import verify
from store.writer import StoreWriter
from tests.store.building import (
    build,
    fingerprint,
    identities,
    row_values,
    usual_values,
    write_pending,
)


def assert_same(found: CachedRow, stored: RowValues) -> None:
    assert found.token == stored.token
    assert torch.equal(found.gt.values, stored.gt.values)
    assert torch.equal(found.gt.labels, stored.gt.labels)
    assert found.arrays.keys() == stored.arrays.keys()
    for name, array in stored.arrays.items():
        assert found.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(found.arrays[name], array)


@pytest.mark.parametrize("coverage", list(Coverage))
def test_a_row_comes_back_as_it_was_given(tmp_path: Path, coverage: Coverage):
    cache = open_cache(build(tmp_path / "store", 19, coverage))
    assert len(cache) == 19
    assert cache.tokens == tuple(f"token-{row:04d}" for row in range(19))
    for row in (18, 0, 5, 16, 15):
        token = f"token-{row:04d}"
        assert token in cache
        assert_same(cache[token], usual_values(cache.fingerprint, row))


lengths = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=35)


@given(lengths)
@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_lengths_survive_also_across_chunks(
    tmp_path_factory: pytest.TempPathFactory, counts: list[tuple[int, int]]
):
    path = tmp_path_factory.mktemp("any") / "store"
    rows = identities(len(counts))
    made_for = fingerprint(rows)
    values = [
        row_values(made_for, row.token, boxes=boxes, cells=cells, seed=index)
        for index, (row, (boxes, cells)) in enumerate(zip(rows, counts, strict=True))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "ROWS_PER_CHUNK", 4)
        patch.setattr(layout, "MIN_CHUNK_BYTES", 1)
        writer = StoreWriter.open(path, made_for, rows)
        for part in reversed(writer.pending_parts):
            writer.write_part(part, values[part.start : part.stop])
        writer.finalise()
        cache = open_cache(path)
        for row in values:
            assert_same(cache[row.token], row)


def test_what_is_read_belongs_to_the_caller(tmp_path: Path):
    cache = open_cache(build(tmp_path / "store", 3))
    row = cache["token-0002"]
    row.arrays["boxes/centre"][:] = 0
    row.gt.values[:] = 0
    assert_same(cache["token-0002"], usual_values(cache.fingerprint, 2))


@pytest.mark.parametrize("coverage", list(Coverage))
def test_plain_zarr_reads_the_same_numbers(tmp_path: Path, coverage: Coverage):
    path = build(tmp_path / "store", 19, coverage)
    cache = open_cache(path)
    group: Any = zarr.open_group(path, mode="r")
    tokens = [bytes(row).rstrip(b"\0").decode() for row in group["rows/token"][:]]
    assert tuple(tokens) == cache.tokens
    row = tokens.index("token-0018")
    want = cache["token-0018"]
    np.testing.assert_array_equal(group["bev_high"][row], want.arrays["bev_high"])
    start, stop = group["offsets/boxes"][row : row + 2]
    assert stop - start == len(want.gt)
    np.testing.assert_array_equal(group["boxes/centre"][start:stop], want.arrays["boxes/centre"])
    np.testing.assert_array_equal(group["gt/values"][start:stop], want.gt.values.numpy())
    start, stop = group["offsets/cells"][row : row + 2]
    np.testing.assert_array_equal(group["cells/index"][start:stop], want.arrays["cells/index"])


def test_the_identity_of_rows_is_stored(tmp_path: Path):
    group: Any = zarr.open_group(build(tmp_path / "store", 3), mode="r")
    rows = identities(3)
    assert bytes(group["rows/scene"][1]) == b"scene-1"
    assert group["rows/timestamp_us"][:].tolist() == [1_000_000, 1_000_001, 1_000_002]
    assert group["rows/prev"][:].tolist() == [-1, 0, 1]
    assert group["rows/next"][:].tolist() == [1, 2, -1]
    assert group["rows/view"][:].tolist() == [0, 0, 0]
    assert group["rows/bev_augment"][1].tolist() == [[1, 0, 0], [0, 1, 0]]
    np.testing.assert_array_equal(group["rows/global_from_ego"][2], rows[2].global_from_ego)


def test_a_store_in_float16_stays_within_its_declared_error(tmp_path: Path):
    rows = identities(1)
    made_for = fingerprint(rows, Coverage.DENSE)
    given_ = usual_values(made_for, 0)
    exact = np.geomspace(1e-9, 65_504, 4 * 6 * 8, dtype=np.float32).reshape(4, 6, 8)
    given_.arrays["bev_high"] = exact
    writer = StoreWriter.open(tmp_path / "store", made_for, rows)
    writer.write_part(range(1), [given_])
    writer.finalise()
    stored = open_cache(tmp_path / "store")["token-0000"].arrays["bev_high"].astype(np.float64)
    error = np.abs(stored - exact) / np.maximum(1, np.abs(exact))
    assert 0 < error.max() <= 2.0**-11


class Overtaken(UnsealedRows):
    """Another thread keeps the record of another part as soon as this one has kept its own."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "_last" and value is not None and value[0] == 0:
            self.digests(16)


def test_threads_may_read_different_parts_of_an_unfinished_store(tmp_path: Path):
    rows = identities(32)
    made_for = fingerprint(rows)
    writer = StoreWriter.open(tmp_path / "store", made_for, rows)
    write_pending(writer, made_for)
    plan = Plan.load(tmp_path / "store")
    alone, overtaken = UnsealedRows(writer.path, plan), Overtaken(writer.path, plan)
    assert overtaken.digests(2) == alone.digests(2)


def test_an_unfinished_store_says_how_far_it_is(tmp_path: Path):
    rows = identities(35)
    made_for = fingerprint(rows, Coverage.DENSE)
    writer = StoreWriter.open(tmp_path / "store", made_for, rows)
    writer.write_part(range(16, 32), [usual_values(made_for, row) for row in range(16, 32)])
    with pytest.raises(IncompleteStoreError, match=r"1 of 3 parts.*--resume"):
        open_cache(tmp_path / "store")
    cache = open_cache(tmp_path / "store", allow_incomplete=True)
    assert cache.tokens == tuple(f"token-{row:04d}" for row in range(16, 32))
    assert cache.manifest_hash == ""
    for row in (16, 31):
        assert_same(cache[f"token-{row:04d}"], usual_values(made_for, row))
    with pytest.raises(UnknownTokenError, match="token-0000"):
        cache["token-0000"]
    with pytest.raises(IncompleteStoreError, match="part 0 of 3"):
        writer.finalise()


def test_a_dump_killed_between_plan_and_metadata_has_no_rows_yet(tmp_path: Path):
    rows = identities(3)
    made_for = fingerprint(rows, Coverage.DENSE)
    StoreWriter.open(tmp_path / "store", made_for, rows)
    (tmp_path / "store" / "zarr.json").unlink()
    assert open_cache(tmp_path / "store", allow_incomplete=True).tokens == ()
    writer = StoreWriter.open(tmp_path / "store", made_for, rows, resume=True)
    write_pending(writer, made_for)
    writer.finalise()
    assert len(open_cache(tmp_path / "store")) == 3


def test_no_store_and_no_row_are_errors(tmp_path: Path):
    with pytest.raises(NotACacheError, match=r"neither manifest.json nor plan.json"):
        open_cache(tmp_path)
    with pytest.raises(UnknownTokenError, match=r"no row 'elsewhere' among its 2"):
        open_cache(build(tmp_path / "store", 2))["elsewhere"]


def test_a_pickled_cache_holds_no_values(tmp_path: Path):
    cache = open_cache(build(tmp_path / "store", 19, Coverage.DENSE))
    size = len(pickle.dumps(cache))
    row = cache["token-0007"]
    assert len(pickle.dumps(cache)) == size
    assert_same(pickle.loads(pickle.dumps(cache))["token-0007"], usual_values(cache.fingerprint, 7))
    assert len(row.gt) == 2


class _Sums(Dataset[torch.Tensor]):
    def __init__(self, cache: Cache) -> None:
        self.cache = cache

    def __len__(self) -> int:
        return len(self.cache)

    def __getitem__(self, row: int) -> torch.Tensor:
        found = self.cache[self.cache.tokens[row]]
        arrays = [array.astype(np.float64).sum() for array in found.arrays.values()]
        return torch.tensor([found.gt.values.double().sum().item(), *arrays])


@pytest.mark.parametrize("context", ["forkserver", "fork"])
def test_workers_read_after_the_parent_has_read(
    tmp_path: Path, context: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    data = _Sums(open_cache(build(tmp_path / "store", 19, Coverage.DENSE)))
    alone = torch.stack([data[row] for row in range(19)])
    loader = DataLoader(
        data, batch_size=4, num_workers=1, multiprocessing_context=context, timeout=300
    )
    assert torch.equal(torch.cat(list(loader)), alone)


def test_the_summary_weighs_arrays(tmp_path: Path):
    told = summary(build(tmp_path / "store", 19, Coverage.DENSE))
    arrays = {array["name"]: array for array in told["arrays"]}
    assert told["name"] == "store"
    assert (told["rows"], told["complete"], told["parts"]) == (19, True, (2, 2))
    assert arrays["bev_high"]["raw_bytes_per_frame"] == 4 * 6 * 8 * 2
    # 0 to 4 boxes in turn: three rounds of 10, then 0 + 1 + 2 + 3 for the last four rows.
    assert arrays["gt/values"]["raw_bytes_per_frame"] == pytest.approx(36 * 36 / 19)
    assert arrays["gt/values"]["stored_bytes_per_frame"] == pytest.approx((36 * 36 + 4) / 19)


def test_the_summary_of_an_unfinished_store_measures_its_parts(tmp_path: Path):
    rows = identities(19)
    made_for = fingerprint(rows)
    writer = StoreWriter.open(tmp_path / "store", made_for, rows)
    assert summary(tmp_path / "store")["parts"] == (0, 2)
    writer.write_part(range(16, 19), [usual_values(made_for, row) for row in range(16, 19)])
    told = summary(tmp_path / "store")
    assert (told["rows"], told["complete"], told["parts"]) == (19, False, (1, 2))
    centre = next(array for array in told["arrays"] if array["name"] == "boxes/centre")
    assert centre["raw_bytes_per_frame"] == (1 + 2 + 3) * 12 / 3
    with pytest.raises(NotACacheError, match="holds no store"):
        summary(tmp_path)


def test_only_some_arrays_are_read(tmp_path: Path):
    path = build(tmp_path / "store", 20, Coverage.DENSE, encoding=Encoding.UINT8)
    whole = open_cache(path)
    some = whole.only(["bev_low", "boxes/yaw"])
    shutil.rmtree(path / "bev_high")
    row = some["token-0003"]
    assert set(row.arrays) == {"bev_low", "boxes/yaw"}
    given = usual_values(whole.fingerprint, 3)
    assert row.gt.values.equal(given.gt.values)
    np.testing.assert_array_equal(row.arrays["boxes/yaw"], given.arrays["boxes/yaw"])
    with pytest.raises(DamagedRowError, match="bev_high"):
        whole["token-0003"]
    with pytest.raises(MissingTargetError, match="bev_middle"):
        whole.only(["bev_middle"])


def test_a_row_knows_its_past(tmp_path: Path):
    cache = open_cache(build(tmp_path / "store", 3))
    row = cache.identity("token-0002")
    past = cache.identities()[row.prev]
    assert (past.token, row.next, past.timestamp_us) == ("token-0001", -1, 1_000_001)
    np.testing.assert_array_equal(row.global_from_ego, identities(3)[2].global_from_ego)


def test_a_store_from_before_there_were_label_encoders_is_read(tmp_path: Path):
    """Its fingerprint lacks the key."""
    path = build(tmp_path / "store", 3)
    manifest = path / layout.MANIFEST
    document = json.loads(manifest.read_bytes())
    assert document["fingerprint"].pop("label_encoder") is None
    del document[HASH_KEY]
    manifest.write_bytes(sealed_json(document))
    cache = open_cache(path)
    assert cache.fingerprint == fingerprint(identities(3))
    assert_same(cache["token-0002"], usual_values(cache.fingerprint, 2))
    assert verify(path) == []


def test_a_grid_that_has_no_half_is_stored_too(tmp_path: Path):
    rows = identities(2)
    usual = fingerprint(rows)
    odd = usual.grid.model_copy(update={"shape": (75, 75)})
    made_for = usual.model_copy(update={"grid": odd})
    writer = StoreWriter.open(tmp_path / "store", made_for, rows)
    write_pending(writer, made_for)
    writer.finalise()
    cache = open_cache(tmp_path / "store")
    found = cache[rows[1].token].arrays[Places.CELLS.index_array]
    assert np.array_equal(found, usual_values(made_for, 1).arrays[Places.CELLS.index_array])
