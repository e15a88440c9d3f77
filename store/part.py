"""A part record: the small targets of a part, and the mark that the part is whole.

A line of JSON, the values' bytes one array after the other, and the 32 bytes of the sha256 of both.
It exists only between the dump and ``finalise``, which packs the records into Zarr arrays and
removes them.
"""

import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from store.errors import DamagedStoreError, RowValueError
from store.files import FileEntry, plain_file
from store.fingerprint import Fingerprint
from store.layout import PARTS, ragged_places
from store.schema import ITEM_BYTES, MAX_ROW_BYTES, DTypeName, Places, Sha256

_HASH_BYTES = 32
MAX_HEADER_BYTES = 1 << 24
MAX_RECORD_BYTES = 1 << 32
Length = Annotated[int, Field(ge=0, le=MAX_ROW_BYTES)]
UInt32 = Annotated[int, Field(ge=0, lt=1 << 32)]


class _Values(BaseModel):
    """Number type and shape of an array's values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: DTypeName
    shape: tuple[Length, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


class _Header(BaseModel):
    """The line of JSON; ``values`` in the order of their bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: Sha256
    counts: dict[Places, tuple[Length, ...]]
    digests: tuple[tuple[UInt32, ...], ...]
    shards: dict[str, FileEntry]
    values: dict[str, _Values]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartRecord:
    """What is known of a part once it is whole.

    Attributes:
        plan: sha256 of the plan that the part belongs to.
        counts: By kind of places: how many each row has.
        values: By ragged array: all rows' values one after the other.
        digests: crc32c of every row's stored bytes, arrays in the order of the fingerprint.
        shards: By map: the shard file.
    """

    plan: str
    counts: dict[Places, npt.NDArray[np.int64]]
    values: dict[str, npt.NDArray[Any]]
    digests: npt.NDArray[np.uint32]
    shards: dict[str, FileEntry]

    def encode(self) -> bytes:
        """The record's file; the same bytes for the same record.

        Raises:
            RowValueError: It is too large for memory.
        """
        header = _Header(
            plan=self.plan,
            counts={places: tuple(counts.tolist()) for places, counts in self.counts.items()},
            digests=tuple(map(tuple, self.digests.tolist())),
            shards=self.shards,
            values={
                name: _Values.model_validate({"dtype": values.dtype.name, "shape": values.shape})
                for name, values in self.values.items()
            },
        )
        line = f"{header.model_dump_json()}\n".encode()
        content = b"".join([line, *(values.tobytes() for values in self.values.values())])
        if len(content) > MAX_RECORD_BYTES - _HASH_BYTES:
            raise RowValueError(
                f"the small targets of a part have {len(content)} bytes; at most "
                f"{MAX_RECORD_BYTES} fit: dump them as whole maps (--coverage dense)"
            )
        return content + hashlib.sha256(content).digest()

    @classmethod
    def load(cls, path: Path) -> "PartRecord":
        """The record in a file.

        Raises:
            DamagedStoreError: The file is missing, cut short, altered or cannot be read.
            UnsafeStoreError: It is no plain file.
        """
        with plain_file(path) as file:
            line = file.readline(MAX_HEADER_BYTES)
            try:
                header = _Header.model_validate_json(line)
            except ValueError as error:
                raise DamagedStoreError(f"{path} is not a part record: {error!s:.500}") from error
            size = sum(values.size for values in header.values.values())
            found = os.fstat(file.fileno()).st_size
            if found != len(line) + size + _HASH_BYTES or found > MAX_RECORD_BYTES:
                raise DamagedStoreError(f"{path} has {found} bytes, which is not what it states")
            content, stated = file.read(size), file.read(_HASH_BYTES)
        hashed = hashlib.sha256(line)
        hashed.update(content)
        if hashed.digest() != stated:
            raise DamagedStoreError(f"{path} does not match its own hash")
        try:
            return cls._from(header, content)
        except ValueError as error:
            raise DamagedStoreError(f"{path} is not a part record: {error}") from error

    @classmethod
    def _from(cls, header: _Header, content: bytes) -> "PartRecord":
        values, begin = {}, 0
        for name, each in header.values.items():
            count = math.prod(each.shape)
            flat = np.frombuffer(content, each.dtype, count, begin) if count else np.empty(0)
            values[name] = flat.astype(each.dtype, copy=False).reshape(each.shape)
            begin += each.size
        return cls(
            plan=header.plan,
            counts={places: np.array(c, np.int64) for places, c in header.counts.items()},
            values=values,
            digests=np.array(header.digests, np.uint32),
            shards=header.shards,
        )

    def fits(self, plan: str, fingerprint: Fingerprint, rows: int) -> bool:
        """Whether it is the record of so many rows of a store with a plan of this hash."""
        ragged = {spec.name: spec for spec in fingerprint.stored if spec.places is not Places.MAP}
        maps = {spec.name for spec in fingerprint.stored} - ragged.keys()
        if (
            self.plan != plan
            or self.digests.shape != (rows, len(fingerprint.stored))
            or self.counts.keys() != set(ragged_places(fingerprint))
            or any(len(counts) != rows for counts in self.counts.values())
            # Of what each row has one value of.
            or any(count != 1 for count in self.counts.get(Places.ROWS, ()))
            or self.values.keys() != ragged.keys()
            or self.shards.keys() != maps
        ):
            return False
        return all(
            values.dtype.name == ragged[name].dtype
            and values.shape
            == (int(self.counts[ragged[name].places.counted_as].sum()), *ragged[name].shape)
            for name, values in self.values.items()
        )


def record_path(root: Path, part: range) -> Path:
    """Where the record of the part that begins at a row lies."""
    return root / PARTS / f"{part.start:08d}.part"


def lock_path(root: Path, part: range) -> Path:
    """Held by whoever writes that part."""
    return record_path(root, part).with_suffix(".lock")
