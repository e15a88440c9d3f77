"""Format 1 on disk: which Zarr arrays a store has, and the exact bytes of their metadata.

Three kinds. *Maps* hold one frame in an inner chunk and one part in a shard. *Ragged* arrays hold
the values of all places one after the other, uncompressed, so that a row's are read straight from
a chunk's file. *Fixed* arrays have one entry a row.
"""

import json
import math
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy.typing as npt
import zarr
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import MemoryStore

from store.fingerprint import Fingerprint
from store.schema import ITEM_BYTES, ArraySpec, Places

ROWS_PER_PART = 16
ROWS_PER_CHUNK = 1024
# Opening reads all of them: few files, each one a request where the store is behind a URL.
ROWS_PER_FIXED_CHUNK = 1 << 16
# Smaller ragged chunks would only cost file handles.
MIN_CHUNK_BYTES = 1 << 22
# Larger ones would not be fetched whole from a remote store.
MAX_CHUNK_BYTES = 1 << 30
# No zarr.json of format 1 comes near it.
MAX_METADATA_BYTES = 1 << 16

_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
# The fast level reads features half as fast again as level 1, for a tenth to a fifth more bytes
# (benchmarks/2026-11-21-store.md); who packs features wants them small.
_ZSTD_FAST, _ZSTD = (
    {"name": "zstd", "configuration": {"level": level, "checksum": False}} for level in (-1, 1)
)
_CRC32C = {"name": "crc32c"}

MANIFEST = "manifest.json"
PLAN = "plan.json"
PARTS = "parts"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayLayout:
    """One Zarr v3 array.

    Attributes:
        key: Path inside the store.
        shape: Of the whole array; the first axis counts rows or values.
        dtype: Number type.
        chunk: Entries of the first axis in one chunk file; the other axes are never cut.
        codecs: Zarr codec chain of a chunk.
        dimension: What the first axis counts.
    """

    key: str
    shape: tuple[int, ...]
    dtype: str
    chunk: int
    codecs: tuple[dict[str, Any], ...]
    dimension: str

    @property
    def chunks(self) -> range:
        """Indices of the chunk files."""
        return range(math.ceil(self.shape[0] / self.chunk))

    @property
    def metadata_key(self) -> str:
        """Path of the array's ``zarr.json``."""
        return f"{self.key}/zarr.json"

    def chunk_key(self, index: int) -> str:
        """Path of a chunk file."""
        return "/".join([self.key, "c", str(index), *("0" for _ in self.shape[1:])])

    @property
    def chunk_keys(self) -> list[str]:
        """Paths of all chunk files."""
        return [self.chunk_key(index) for index in self.chunks]

    def metadata(self) -> bytes:
        """The array's ``zarr.json``: always these bytes, whichever zarr runs."""
        return self._metadata(self.shape)

    def encode(self, block: npt.NDArray[Any]) -> bytes:
        """The bytes of the chunk file that holds these entries (fewer than ``chunk`` at the end).

        They depend on the entries alone, not on the chunk's place in the array.
        """
        memory: dict[str, Buffer] = {}
        store = MemoryStore(memory)
        buffer = default_buffer_prototype().buffer
        memory["zarr.json"] = buffer.from_bytes(self._metadata(block.shape))
        # zarr leaves out a chunk of nothing but fill values, and then it cannot be told from a gap.
        with zarr.config.set({"array.write_empty_chunks": True}):
            zarr.open_array(store, mode="r+", zarr_format=3)[...] = block
        return memory["/".join(["c", *("0" for _ in block.shape)])].to_bytes()

    @property
    def size(self) -> int:
        """Bytes of all entries, decoded."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    @property
    def file_bytes(self) -> range:
        """How large a chunk file may be; zstd adds less than this to what it cannot compress."""
        size = math.prod((self.chunk, *self.shape[1:])) * ITEM_BYTES[self.dtype]
        if self.codecs == (_BYTES, _CRC32C):
            return range(size + 4, size + 5)
        return range(size + (size >> 7) + 128 * (self.chunk + 1))

    def _metadata(self, shape: tuple[int, ...]) -> bytes:
        names = [self.dimension, *(f"{self.key.split('/')[-1]}_{i}" for i in range(1, len(shape)))]
        document = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(shape),
            "data_type": self.dtype,
            "chunk_grid": _regular((self.chunk, *shape[1:])),
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": "NaN" if self.dtype.startswith("float") else 0,
            "codecs": list(self.codecs),
            "dimension_names": names,
            "attributes": {},
            "storage_transformers": [],
        }
        return _document(document)


def map_layout(spec: ArraySpec, rows: int) -> ArrayLayout:
    """Whole maps: a shard is a part, an inner chunk is a frame."""
    shard = {
        "chunk_shape": [1, *spec.shape],
        "codecs": [_BYTES, _ZSTD if spec.encoding else _ZSTD_FAST, _CRC32C],
        "index_codecs": [_BYTES, _CRC32C],
        "index_location": "end",
    }
    return ArrayLayout(
        key=spec.name,
        shape=(rows, *spec.shape),
        dtype=spec.dtype,
        chunk=ROWS_PER_PART,
        codecs=({"name": "sharding_indexed", "configuration": shard},),
        dimension="row",
    )


def ragged_layout(spec: ArraySpec, rows: int, total: int) -> ArrayLayout:
    """Values of all rows one after the other; a chunk holds about ``ROWS_PER_CHUNK`` rows'."""
    even_share = math.ceil(total / math.ceil(rows / ROWS_PER_CHUNK))
    least, most = (size // spec.value_bytes for size in (MIN_CHUNK_BYTES, MAX_CHUNK_BYTES))
    return ArrayLayout(
        key=spec.name,
        shape=(total, *spec.shape),
        dtype=spec.dtype,
        chunk=max(1, min(total, most, max(even_share, least))),
        codecs=(_BYTES, _CRC32C),
        dimension=str(spec.places.counted_as),
    )


def fixed_layout(key: str, shape: tuple[int, ...], dtype: str) -> ArrayLayout:
    """One entry a row (offsets have one more, the end)."""
    return ArrayLayout(
        key=key,
        shape=shape,
        dtype=dtype,
        chunk=min(shape[0], ROWS_PER_FIXED_CHUNK),
        codecs=(_BYTES, _ZSTD, _CRC32C),
        dimension="row",
    )


def offsets_key(places: Places) -> str:
    """Where each row's values begin in the ragged arrays of these places, and the end."""
    return f"offsets/{places}"


def ragged_places(fingerprint: Fingerprint) -> tuple[Places, ...]:
    """The kinds of places that need offsets, in a fixed order."""
    present = {spec.places.counted_as for spec in fingerprint.stored}
    return tuple(places for places in Places if places in present - {Places.MAP})


def store_metadata(layouts: list[ArrayLayout]) -> dict[str, bytes]:
    """Every ``zarr.json`` of a store with these arrays: the root, the folders, the arrays."""
    groups = dict.fromkeys(_group_keys(layouts), _GROUP)
    return groups | {layout.metadata_key: layout.metadata() for layout in layouts}


def metadata_keys(layouts: list[ArrayLayout]) -> list[str]:
    """The paths of ``store_metadata``."""
    return _group_keys(layouts) + [layout.metadata_key for layout in layouts]


def _group_keys(layouts: list[ArrayLayout]) -> list[str]:
    folders = {folder for layout in layouts for folder in PurePosixPath(layout.key).parents}
    return [str(folder / "zarr.json") for folder in sorted({*folders, PurePosixPath()})]


def _regular(chunk_shape: tuple[int, ...]) -> dict[str, Any]:
    return {"name": "regular", "configuration": {"chunk_shape": list(chunk_shape)}}


def _document(document: dict[str, Any]) -> bytes:
    return f"{json.dumps(document, indent=2)}\n".encode()


_GROUP = _document({"zarr_format": 3, "node_type": "group", "attributes": {}})
