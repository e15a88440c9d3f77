"""The small targets and the index of a sealed store: the index is held, the rest kept open."""

import resource
import sys
from collections import OrderedDict
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from frames.augment import BevAugment
from store.chunk import RaggedChunk, read_fixed
from store.errors import DamagedStoreError, UnsafeStoreError
from store.guard import check_file, check_metadata, check_size
from store.layout import ArrayLayout, offsets_key, ragged_places
from store.manifest import Manifest
from store.rows import RowIdentity, unpacked_names
from store.schema import MAX_ROW_BYTES, ArraySpec, Places
from store.source import Source

# Chunk files of a mirrored store that are kept open: an evicted file keeps its disk space so long.
OPEN_MIRRORED = 64
# Of a local store: a quarter of what the process may open, as training has two stores open.
# To open one anew costs a tenth of a millisecond, and a shuffled row has a dozen.
OPEN_SHARE = 4


class SealedRows:
    """Rows of the ragged arrays.

    Chunk files are opened when a row of them is first read; the one opened first is closed once
    there are too many. Pickling closes them.

    Attributes:
        row_of: Row of each token's view 0, in row order.
    """

    def __init__(self, source: Source, manifest: Manifest) -> None:
        self._source = source
        self._manifest = manifest
        self._layouts = {layout.key: layout for layout in manifest.ragged}
        self._fixed_layouts = {layout.key: layout for layout in manifest.fixed}
        source.prepare(manifest)
        source.fetch(manifest.index_files)
        check_metadata(source.root, manifest.layouts)
        for layout in self._fixed_layouts.values():
            for key in layout.chunk_keys:
                check_file(source.root / key, manifest.files[key])
        self._views = manifest.fingerprint.views
        self._tokens = self._names("rows/token")
        self.row_of = {
            token: row for row, token in enumerate(self._tokens) if row % self._views == 0
        }
        self._augments = self._fixed("rows/bev_augment")
        self._digests = self._fixed("index/digest")
        self._offsets = {
            places: self._fixed(offsets_key(places))
            for places in ragged_places(manifest.fingerprint)
        }
        self._ragged = {
            spec.name: (self._layouts[spec.name], self._offsets[spec.places.counted_as])
            for spec in manifest.fingerprint.stored
            if spec.name in self._layouts
        }
        self._chunks: OrderedDict[tuple[str, int], RaggedChunk] = OrderedDict()
        self._check_index()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_chunks": OrderedDict()}

    def digests(self, row: int) -> npt.NDArray[np.uint32]:
        """crc32c of the row's decoded bytes, in the order of ``Fingerprint.stored``."""
        return np.asarray(self._digests[row])

    def identities(self) -> list[RowIdentity]:
        """Who the rows are, in order."""
        columns = {
            "token": self._tokens,
            "scene": self._names("rows/scene"),
            "timestamp_us": self._fixed("rows/timestamp_us").tolist(),
            "global_from_ego": self._fixed("rows/global_from_ego"),
            "prev": self._fixed("rows/prev").tolist(),
            "next": self._fixed("rows/next").tolist(),
            "view": self._fixed("rows/view").tolist(),
            "bev_augment": self._augments,
        }
        return [
            RowIdentity(**dict(zip(columns, row, strict=True)))
            for row in zip(*columns.values(), strict=True)
        ]

    def augment(self, row: int) -> BevAugment:
        """How the teacher saw the row's frame."""
        return BevAugment(torch.from_numpy(self._augments[row].copy()))

    def values(self, spec: ArraySpec, row: int) -> npt.NDArray[Any]:
        """A copy of the row's values of a ragged array, not yet held against their digest.

        Raises:
            DamagedStoreError: A chunk file is missing or of another size.
        """
        layout, start, stop = self._span(spec, row)
        size = layout.chunk
        values = np.empty((stop - start, *spec.shape), spec.dtype)
        index, first = divmod(start, size)
        if first + stop - start <= size:
            # All in one chunk, as nearly always.
            if stop > start:
                self._chunk(layout, index).read(values, first)
            return values
        for index in _chunks(start, stop, size):
            first, last = max(start, index * size), min(stop, (index + 1) * size)
            chunk = self._chunk(layout, index)
            chunk.read(values[first - start : last - start], first - index * size)
        return values

    def files(self, spec: ArraySpec, row: int) -> list[str]:
        """The chunk files that hold the row's values of a ragged array."""
        layout, start, stop = self._span(spec, row)
        return [layout.chunk_key(index) for index in _chunks(start, stop, layout.chunk)]

    def forget_files(self) -> None:
        """Open the chunk files anew when they are next read."""
        self._chunks.clear()

    def _fixed(self, key: str) -> npt.NDArray[Any]:
        try:
            return read_fixed(self._source.root, self._fixed_layouts[key])
        except (ValueError, RuntimeError) as error:
            raise DamagedStoreError(
                f"{self._source.name}/{key} does not decode ({error}); fetch the store again"
            ) from error

    def _names(self, key: str) -> tuple[str, ...]:
        try:
            return unpacked_names(self._fixed(key))
        except UnicodeDecodeError as error:
            raise DamagedStoreError(f"{self._source.name}/{key} is no UTF-8: {error}") from error

    def _span(self, spec: ArraySpec, row: int) -> tuple[ArrayLayout, int, int]:
        """A ragged array, and where the row's values begin and end in it."""
        layout, offsets = self._ragged[spec.name]
        return layout, offsets.item(row), offsets.item(row + 1)

    def _chunk(self, layout: ArrayLayout, index: int) -> RaggedChunk:
        chunk = self._chunks.get((layout.key, index))
        if chunk is None:
            key = layout.chunk_key(index)
            self._source.fetch([key])
            path = self._source.root / key
            check_size(path, self._manifest.files[key])
            chunk = self._chunks[layout.key, index] = RaggedChunk(path)
            most = OPEN_MIRRORED if self._source.evicts else _own_files() // OPEN_SHARE
            # Another thread may close files too; whoever still reads one keeps it.
            with suppress(KeyError):
                while len(self._chunks) > most:
                    self._chunks.popitem(last=False)
        return chunk

    def _check_index(self) -> None:
        counts = self._manifest.counts
        ends = {places: counts.values(places) for places in self._offsets}
        in_order = all(
            offsets[0] == 0 and offsets[-1] == ends[places] and (offsets[1:] >= offsets[:-1]).all()
            for places, offsets in self._offsets.items()
        )
        single = self._offsets.get(Places.ROWS, np.arange(counts.rows + 1))
        in_order = in_order and bool((np.diff(single) == 1).all())
        if not (in_order and self._views_in_order() and self._fixed("index/state").all()):
            raise DamagedStoreError(
                f"the index of {self._source.name} contradicts its manifest; fetch the store again"
            )
        largest = self._row_bytes().max()
        if largest > MAX_ROW_BYTES:
            raise UnsafeStoreError(
                f"{self._source.name} has a row of {largest:.0f} bytes; at most {MAX_ROW_BYTES} fit"
            )

    def _row_bytes(self) -> npt.NDArray[np.float64]:
        """Bytes of each row's ragged values; float64, as a hostile index may say anything."""
        total = np.zeros(self._manifest.counts.rows)
        for spec in self._manifest.fingerprint.stored:
            if spec.name in self._ragged:
                total += np.diff(self._ragged[spec.name][1]) * float(spec.value_bytes)
        return total

    def _views_in_order(self) -> bool:
        """Whether each frame's views lie side by side, and a canonical store has but one."""
        rows, views = self._manifest.counts.rows, self._views
        repeated = [token for token in self.row_of for _ in range(views)]
        numbers = self._fixed("rows/view")
        drawn = self._manifest.fingerprint.augmentation != "canonical"
        matrices = np.isfinite(self._augments) if drawn else self._augments == np.eye(2, 3)
        return (
            repeated == list(self._tokens)
            and bool((numbers == np.arange(rows) % views).all())
            and bool(matrices.all())
        )


def _own_files() -> int:
    """How many files this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def _chunks(start: int, stop: int, size: int) -> range:
    """Indices of the chunks of ``size`` values that hold some of ``start`` to ``stop``."""
    return range(start // size, -(-stop // size) if stop > start else 0)
