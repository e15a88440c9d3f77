"""The ragged arrays of a sealed store: a row's values, read from chunk files that are kept open."""

import os
import resource
import sys
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from store.errors import DamagedStoreError
from store.files import open_plain
from store.guard import check_size
from store.layout import ArrayLayout
from store.manifest import Manifest
from store.source import Source

# Chunk files of a mirrored store that are kept open: an evicted file keeps its disk space so long.
OPEN_MIRRORED = 64
# Of a local store: a quarter of what the process may open, as training has two stores open.
# To open one anew costs a tenth of a millisecond, and a shuffled row has a dozen.
OPEN_SHARE = 4


class RaggedArray:
    """One ragged array.

    Args:
        layout: On the disk.
        offsets: Where each row's values begin, and where the last one's end.
        chunks: Of all the store's arrays.
    """

    __slots__ = ("_chunks", "_dtype", "_key", "_layout", "_offsets", "_size", "_value_shape")

    def __init__(
        self, layout: ArrayLayout, offsets: npt.NDArray[np.int64], chunks: "OpenChunks"
    ) -> None:
        self._layout = layout
        self._key = layout.key
        self._offsets = offsets
        self._chunks = chunks
        self._dtype = np.dtype(layout.dtype)
        self._value_shape = layout.shape[1:]
        self._size = layout.chunk

    @property
    def row_bytes(self) -> npt.NDArray[np.float64]:
        """Bytes of each row's values; float64, as a hostile index may say anything."""
        value_bytes = float(np.prod(self._value_shape, dtype=float) * self._dtype.itemsize)
        return np.diff(self._offsets) * value_bytes

    def read(self, row: int) -> npt.NDArray[Any]:
        """A copy of the row's values, not yet held against their digest.

        Raises:
            DamagedStoreError: A chunk file is missing or of another size.
        """
        start, stop = self._offsets.item(row), self._offsets.item(row + 1)
        values = np.empty((stop - start, *self._value_shape), self._dtype)
        index, first = divmod(start, self._size)
        if first + stop - start <= self._size:
            # All in one chunk, as nearly always.
            self._fill(values, index, first)
            return values
        at = start
        while at < stop:
            index, first = divmod(at, self._size)
            end = min(stop, at - first + self._size)
            self._fill(values[at - start : end - start], index, first)
            at = end
        return values

    def files(self, row: int) -> list[str]:
        """The chunk files that hold the row's values."""
        start, stop = self._offsets.item(row), self._offsets.item(row + 1)
        if start == stop:
            return []
        indices = range(start // self._size, (stop - 1) // self._size + 1)
        return [self._layout.chunk_key(index) for index in indices]

    def _fill(self, values: npt.NDArray[Any], index: int, first: int) -> None:
        if len(values) == 0:
            return
        chunk = self._chunks[self._key, index]
        try:
            found = os.preadv(chunk.descriptor, [values.data], first * values.strides[0])
        except OSError as error:
            raise DamagedStoreError(f"{chunk.path} cannot be read: {error.strerror}") from error
        if found != values.nbytes:
            raise DamagedStoreError(f"{chunk.path} has become shorter; fetch the store again")


class OpenChunk:
    """A chunk file, kept open; safe in threads and forked processes.

    It is not mapped: to touch a page of a mapped file that has been cut short, or lies on a bad
    disk, ends the process.
    """

    __slots__ = ("descriptor", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = -1
        self.descriptor = open_plain(path)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class OpenChunks(OrderedDict[tuple[str, int], OpenChunk]):
    """The chunk files of a store's ragged arrays, by array and number; opened when first asked for.

    The one opened first is closed once there are too many. Pickling closes them.

    Args:
        source: Where the files come from.
        manifest: What they are.
    """

    def __init__(self, source: Source, manifest: Manifest) -> None:
        super().__init__()
        self._source = source
        self._files = manifest.files
        self._layouts = {layout.key: layout for layout in manifest.ragged}
        self._made_of = (source, manifest)

    def __reduce__(self) -> tuple[type["OpenChunks"], tuple[Source, Manifest]]:
        return OpenChunks, self._made_of

    def __missing__(self, place: tuple[str, int]) -> OpenChunk:
        """Open a chunk file, fetched if need be.

        Raises:
            DamagedStoreError: It is missing or of another size.
        """
        array, index = place
        key = self._layouts[array].chunk_key(index)
        self._source.fetch([key])
        path = self._source.root / key
        check_size(path, self._files[key])
        chunk = self[place] = OpenChunk(path)
        most = OPEN_MIRRORED if self._source.evicts else _own_files() // OPEN_SHARE
        # Another thread may close files too; whoever still reads one keeps it.
        with suppress(KeyError):
            while len(self) > most:
                self.popitem(last=False)
        return chunk


def _own_files() -> int:
    """How many files this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
