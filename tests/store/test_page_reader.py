"""A store read from docs/cache-format.md alone: nothing of ``store/`` reads it here.

Once with plain zarr-python, json and the checksums that the page names, and once without zarr at
all, as a reader in another language would be written.
"""

import hashlib
import json
import math
import struct
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import pytest
import zarr
from numcodecs.zstd import Zstd

from store.choices import Coverage
from store.rows import RowValues
from tests.store.building import build, fingerprint, identities, usual_values

ROWS = 19
Row = dict[str, npt.NDArray[Any]]


@pytest.fixture(scope="module", params=list(Coverage))
def path(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    return build(tmp_path_factory.mktemp("page") / "store", ROWS, request.param)


def offsets_of(places: str) -> str:
    """The page: the nine points of a box are counted as boxes."""
    return "offsets/boxes" if places == "points" else f"offsets/{places}"


def stored(path: Path) -> list[dict[str, Any]]:
    """The page: the manifest's arrays, then the ground truth; the order of ``index/digest``."""
    arrays: list[dict[str, Any]] = json.loads((path / "manifest.json").read_text())["fingerprint"][
        "arrays"
    ]
    gt = [{"name": name, "places": "boxes"} for name in ("gt/values", "gt/labels")]
    return arrays + gt


def rows_with_zarr(path: Path) -> dict[str, Row]:
    """Every array of every row by token, each held against its digest."""
    store: Any = zarr.open_group(path, mode="r")
    tokens = [bytes(name).rstrip(b"\0").decode() for name in store["rows/token"][:]]
    found: dict[str, Row] = {token: {} for token in tokens}
    assert (store["index/state"][:] == 1).all()
    for column, array in enumerate(stored(path)):
        values = store[array["name"]]
        for row, token in enumerate(tokens):
            if array["places"] == "map":
                block = values[row]
            else:
                start, stop = store[offsets_of(array["places"])][row : row + 2]
                block = values[start:stop]
            assert google_crc32c.value(block.tobytes()) == store["index/digest"][row, column]
            found[token][array["name"]] = block
    return found


def metadata(path: Path, key: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((path / key / "zarr.json").read_text())
    return document


def chunk(path: Path, key: str, index: int) -> bytes:
    """A chunk file's bytes: the first axis is cut, the others are not."""
    axes = len(metadata(path, key)["shape"])
    return path.joinpath(key, "c", str(index), *["0"] * (axes - 1)).read_bytes()


def crc_removed(data: bytes) -> bytes:
    assert google_crc32c.value(data[:-4]) == struct.unpack("<I", data[-4:])[0]
    return data[:-4]


def decoded(data: bytes, codecs: list[dict[str, Any]]) -> bytes:
    for codec in reversed(codecs):
        match codec["name"]:
            case "crc32c":
                data = crc_removed(data)
            case "zstd":
                data = Zstd().decode(data)
            case name:
                assert name == "bytes"
    return data


def whole(path: Path, key: str) -> npt.NDArray[Any]:
    """An array that is no map: its chunks one after the other, cut to its shape."""
    document = metadata(path, key)
    shape, codecs = document["shape"], document["codecs"]
    (length, *_) = document["chunk_grid"]["configuration"]["chunk_shape"]
    count = math.ceil(shape[0] / length)
    data = b"".join(decoded(chunk(path, key, index), codecs) for index in range(count))
    values = np.frombuffer(data, np.dtype(document["data_type"]).newbyteorder("<"))
    return values.reshape(-1, *shape[1:])[: shape[0]]


def frame(path: Path, key: str, row: int) -> npt.NDArray[Any]:
    """One frame of a map: the shard's index, then the frame's inner chunk."""
    document = metadata(path, key)
    (length, *shape) = document["chunk_grid"]["configuration"]["chunk_shape"]
    shard = chunk(path, key, row // length)
    index = crc_removed(shard[-(16 * length + 4) :])
    begin, size = struct.unpack_from("<QQ", index, 16 * (row % length))
    codecs = document["codecs"][0]["configuration"]["codecs"]
    data = decoded(shard[begin : begin + size], codecs)
    return np.frombuffer(data, np.dtype(document["data_type"]).newbyteorder("<")).reshape(shape)


def rows_by_hand(path: Path) -> dict[str, Row]:
    """As ``rows_with_zarr``, from the files' bytes."""
    tokens = [bytes(name).rstrip(b"\0").decode() for name in whole(path, "rows/token")]
    digests = whole(path, "index/digest")
    found: dict[str, Row] = {token: {} for token in tokens}
    for column, array in enumerate(stored(path)):
        for row, token in enumerate(tokens):
            if array["places"] == "map":
                block = frame(path, array["name"], row)
            else:
                start, stop = whole(path, offsets_of(array["places"]))[row : row + 2]
                block = whole(path, array["name"])[start:stop]
            assert google_crc32c.value(block.tobytes()) == digests[row, column]
            found[token][array["name"]] = block
    return found


def expected(values: RowValues) -> Row:
    gt = {"gt/values": values.gt.values.numpy(), "gt/labels": values.gt.labels.numpy()}
    return values.arrays | gt


@pytest.mark.parametrize("read", [rows_with_zarr, rows_by_hand])
def test_the_page_is_enough_to_read_every_value(path: Path, read: Any):
    coverage = Coverage(json.loads((path / "manifest.json").read_text())["fingerprint"]["coverage"])
    made_for = fingerprint(identities(ROWS), coverage)
    found = read(path)
    assert list(found) == [f"token-{row:04d}" for row in range(ROWS)]
    for row, arrays in enumerate(found.values()):
        right = expected(usual_values(made_for, row))
        assert arrays.keys() == right.keys()
        for name, values in arrays.items():
            assert values.dtype == right[name].dtype
            assert np.array_equal(values, right[name]), (row, name)


def test_the_page_is_enough_to_know_the_rows(path: Path):
    store: Any = zarr.open_group(path, mode="r")
    for row, identity in enumerate(identities(ROWS)):
        scene = bytes(store["rows/scene"][row]).rstrip(b"\0").decode()
        assert (scene, store["rows/timestamp_us"][row]) == (identity.scene, identity.timestamp_us)
        assert (store["rows/prev"][row], store["rows/next"][row]) == (identity.prev, identity.next)
        assert np.array_equal(store["rows/global_from_ego"][row], identity.global_from_ego)
        assert np.array_equal(store["rows/bev_augment"][row], np.eye(2, 3))
        assert store["rows/view"][row] == 0


def test_the_page_is_enough_to_check_the_seal(path: Path):
    manifest = json.loads((path / "manifest.json").read_text())
    stated = manifest.pop("sha256")
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(f"{text}\n".encode()).hexdigest() == stated
    for name, entry in manifest["files"].items():
        data = (path / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["size"], entry["sha256"])
    listed = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert listed == manifest["files"].keys() | {"manifest.json"}
