"""A part record: the small targets of a part, and the mark that the part is whole.

An ``.npz`` without compression, followed by the 32 bytes of its sha256. It exists only between
the dump and ``finalise``, which packs the records into Zarr arrays and removes them.
"""

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from store.errors import DamagedStoreError
from store.files import FileEntry
from store.layout import PARTS
from store.schema import Places

_HASH_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class PartRecord:
    """What is known of a part once it is whole.

    Attributes:
        counts: By kind of places: how many each row has.
        values: By ragged array: all rows' values one after the other.
        digests: crc32c of every row's decoded bytes, arrays in the order of the fingerprint.
        shards: By map: the shard file.
    """

    counts: dict[Places, npt.NDArray[np.int64]]
    values: dict[str, npt.NDArray[Any]]
    digests: npt.NDArray[np.uint32]
    shards: dict[str, FileEntry]

    def encode(self) -> bytes:
        """The record's file; the same bytes for the same record."""
        shards = {name: entry.model_dump() for name, entry in self.shards.items()}
        arrays: dict[str, npt.NDArray[Any]] = {
            "digests": self.digests,
            "shards": np.frombuffer(json.dumps(shards).encode(), np.uint8),
            **{f"counts/{places}": counts for places, counts in self.counts.items()},
            **{f"values/{name}": values for name, values in self.values.items()},
        }
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        content = buffer.getvalue()
        return content + hashlib.sha256(content).digest()

    @classmethod
    def load(cls, path: Path) -> "PartRecord":
        """The record in a file.

        Raises:
            DamagedStoreError: The file is missing, cut short or altered.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DamagedStoreError(f"{path} cannot be read: {error.strerror}") from error
        content, stated = data[:-_HASH_BYTES], data[-_HASH_BYTES:]
        if hashlib.sha256(content).digest() != stated:
            raise DamagedStoreError(f"{path} does not match its own hash")
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                return cls._from_arrays(dict(arrays))
        except (ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DamagedStoreError(f"{path} is not a part record: {error}") from error

    @classmethod
    def _from_arrays(cls, arrays: dict[str, npt.NDArray[Any]]) -> "PartRecord":
        def under(folder: str) -> dict[str, npt.NDArray[Any]]:
            return {
                name.removeprefix(folder): array
                for name, array in arrays.items()
                if name.startswith(folder)
            }

        shards = json.loads(arrays["shards"].tobytes())
        return cls(
            counts={Places(places): counts for places, counts in under("counts/").items()},
            values=under("values/"),
            digests=arrays["digests"],
            shards={name: FileEntry(**entry) for name, entry in shards.items()},
        )


def record_path(root: Path, part: range) -> Path:
    """Where the record of the part that begins at a row lies."""
    return root / PARTS / f"{part.start:08d}.part"


def lock_path(root: Path, part: range) -> Path:
    """Held by whoever writes that part."""
    return record_path(root, part).with_suffix(".lock")
