"""Arrays in a lossy encoding, from the writer to the reader."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from store.choices import Coverage, Encoding
from store.encoding import decode, encode, largest_error
from store.errors import DamagedRowError, RowValueError
from store.reader import open_cache
from store.summary import summary
from store.values import checked_row
from store.verify import verify
from store.writer import StoreWriter
from tests.store.building import (
    ALL_NEEDS,
    build,
    fingerprint,
    identities,
    row_values,
    tree,
    usual_values,
    write_pending,
)

ROWS = 18
LOSSY = (Encoding.BFLOAT16, Encoding.UINT8, Encoding.FLOAT8)
each_lossy = pytest.mark.parametrize("encoding", LOSSY)
each_coverage = pytest.mark.parametrize("coverage", list(Coverage))


def usual_store(path: Path, encoding: Encoding, coverage: Coverage = Coverage.FOREGROUND) -> Path:
    return build(path, ROWS, coverage, needs=ALL_NEEDS, encoding=encoding)


@each_coverage
@each_lossy
def test_every_row_is_what_its_encoding_makes_of_it(
    tmp_path: Path, encoding: Encoding, coverage: Coverage
):
    cache = open_cache(usual_store(tmp_path / "store", encoding, coverage))
    made_for = cache.fingerprint
    packed = [spec for spec in made_for.given if spec.encoding]
    assert {spec.name for spec in packed} >= {"bev_high"}
    for row in range(ROWS):
        given = usual_values(made_for, row)
        found = cache[given.token]
        assert found.arrays.keys() == given.arrays.keys()
        for spec in packed:
            values = given.arrays[spec.name]
            payload, ranges = encode(values, encoding, spec.channel_axis)
            expected = decode(payload, ranges, encoding, spec.channel_axis)
            np.testing.assert_array_equal(found.arrays[spec.name], expected)
            error = largest_error(values, found.arrays[spec.name], ranges, spec.channel_axis)
            assert error <= spec.max_error == encoding.max_error
    assert verify(cache.name) == []


@each_lossy
def test_a_resumed_dump_writes_the_same_bytes(tmp_path: Path, encoding: Encoding):
    alone = usual_store(tmp_path / "alone", encoding)
    rows = identities(ROWS)
    made_for = fingerprint(rows, needs=ALL_NEEDS, encoding=encoding)
    first = StoreWriter.open(tmp_path / "store", made_for, rows)
    part = first.pending_parts[-1]
    first.write_part(part, [usual_values(made_for, row) for row in part])
    half = open_cache(tmp_path / "store", allow_incomplete=True)
    token = f"token-{part.start:04d}"
    np.testing.assert_array_equal(
        half[token].arrays["bev_high"], open_cache(alone)[token].arrays["bev_high"]
    )
    writer = StoreWriter.open(tmp_path / "store", made_for, rows, resume=True)
    write_pending(writer, made_for)
    writer.finalise()
    assert tree(tmp_path / "store") == tree(alone)


def test_a_record_whose_rows_have_not_one_range_each_is_none(tmp_path: Path):
    rows = identities(3)
    made_for = fingerprint(rows, encoding=Encoding.UINT8)
    writer = StoreWriter.open(tmp_path / "store", made_for, rows)
    write_pending(writer, made_for)
    record = tmp_path / "store/parts/00000000.part"
    content = record.read_bytes()[:-32].replace(b'"rows":[1,1,1]', b'"rows":[2,0,1]')
    record.write_bytes(content + hashlib.sha256(content).digest())
    assert writer.pending_parts == [range(3)]


def test_the_summary_names_encoding_and_bound(tmp_path: Path):
    facts = summary(usual_store(tmp_path / "store", Encoding.UINT8))
    array = {array["name"]: array for array in facts["arrays"]}["cells/bev_low"]
    assert (array["encoding"], array["dtype"]) == ("uint8", "uint8")
    assert array["max_error"] == Encoding.UINT8.max_error


@pytest.mark.parametrize(
    ("encoding", "name", "value"),
    [
        (Encoding.UINT8, "bev_high_range", np.nan),
        (Encoding.UINT8, "cells/bev_low_range", np.inf),
        (Encoding.FLOAT8, "points/bev_low_range", -np.inf),
        (Encoding.FLOAT8, "cells/bev_low", 0x7F),
        (Encoding.BFLOAT16, "cells/bev_low", 0x7F80),
        (Encoding.UINT8, "cells/index", 10**9),
        (Encoding.UINT8, "cells/index", -1),
        (Encoding.UINT8, "gt/labels", 1 << 40),
    ],
)
def test_what_no_writer_makes_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: Encoding, name: str, value: float
):
    """Written by a hostile writer, with the right digests."""
    rows = identities(1)
    made_for = fingerprint(rows, needs=ALL_NEEDS, encoding=encoding)

    def hostile(*given: Any) -> list[npt.NDArray[Any]]:
        stored = checked_row(*given)
        column = [spec.name for spec in made_for.stored].index(name)
        stored[column] = np.full_like(stored[column], value)
        return stored

    monkeypatch.setattr("store.writer.checked_row", hostile)
    writer = StoreWriter.open(tmp_path / "store", made_for, rows)
    given = row_values(made_for, "token-0000", boxes=3, cells=9, seed=0)
    writer.write_part(range(1), [given])
    cache = open_cache(tmp_path / "store", allow_incomplete=True)
    with pytest.raises(
        DamagedRowError,
        match=rf"{name.removesuffix('_range')}.*(no finite values give such|expected 0 to)",
    ):
        cache["token-0000"]


@each_lossy
def test_values_that_are_not_finite_are_refused(tmp_path: Path, encoding: Encoding):
    rows = identities(1)
    made_for = fingerprint(rows, needs=ALL_NEEDS, encoding=encoding)
    given = usual_values(made_for, 0)
    given.arrays["bev_high"][0, 0, 0] = np.inf
    writer = StoreWriter.open(tmp_path / "store", made_for, rows)
    with pytest.raises(RowValueError, match="'bev_high' of row 'token-0000' holds inf"):
        writer.write_part(range(1), [given])
