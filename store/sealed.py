"""The small targets and the index of a sealed store: the index is checked, the rest mapped."""

from typing import Any

import numpy as np
import numpy.typing as npt

from store.errors import DamagedRowError, DamagedStoreError
from store.guard import check_file, check_metadata, check_size
from store.layout import ArrayLayout, offsets_key, ragged_places
from store.manifest import Manifest
from store.map_reader import open_array
from store.rows import unpacked_names
from store.schema import ArraySpec
from store.source import Source
from store.values import digest


class SealedRows:
    """Rows of the ragged arrays.

    Chunk files are mapped into memory when a row of them is first read, so that all processes of
    a machine share one copy. Pickling drops the mappings.

    Attributes:
        row_of: Row of each token, in row order.
    """

    def __init__(self, source: Source, manifest: Manifest) -> None:
        self._source = source
        self._manifest = manifest
        self._layouts = {layout.key: layout for layout in manifest.ragged}
        fixed = [key for layout in manifest.fixed for key in layout.chunk_keys]
        source.prepare(manifest)
        source.fetch([*manifest.metadata, *fixed])
        check_metadata(source.root, manifest.layouts)
        for key in fixed:
            check_file(source.root / key, manifest.files[key])
        tokens = unpacked_names(self._fixed("rows/token"))
        self.row_of = {token: row for row, token in enumerate(tokens)}
        self._digests = self._fixed("index/digest")
        self._offsets = {
            places: self._fixed(offsets_key(places))
            for places in ragged_places(manifest.fingerprint)
        }
        self._mapped: dict[str, npt.NDArray[Any]] = {}
        self._check_index()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_mapped": {}}

    def digests(self, row: int) -> npt.NDArray[np.uint32]:
        """crc32 of the row's decoded bytes, in the order of ``Fingerprint.stored``."""
        return np.asarray(self._digests[row])

    def values(self, spec: ArraySpec, row: int) -> npt.NDArray[Any]:
        """A copy of the row's values of a ragged array, not yet held against their digest.

        Raises:
            DamagedStoreError: A chunk file is missing or of another size.
        """
        layout, size = self._layouts[spec.name], self._layouts[spec.name].chunk
        start, stop = self._span(spec, row)
        pieces = [
            self._chunk(layout, index)[max(start - index * size, 0) : stop - index * size]
            for index in _chunks(start, stop, size)
        ]
        return np.concatenate([np.empty((0, *spec.shape), spec.dtype), *pieces])

    def files(self, spec: ArraySpec, row: int) -> list[str]:
        """The chunk files that hold the row's values of a ragged array."""
        layout = self._layouts[spec.name]
        indices = _chunks(*self._span(spec, row), layout.chunk)
        return [layout.chunk_key(index) for index in indices]

    def forget(self, keys: list[str]) -> None:
        """Map these chunk files anew when they are next read."""
        for key in keys:
            self._mapped.pop(key, None)

    def check_rows(self) -> None:
        """Hold every row's small targets against their digests.

        Raises:
            DamagedRowError: One differs.
        """
        for column, spec in enumerate(self._manifest.fingerprint.stored):
            if spec.name in self._layouts:
                for token, row in self.row_of.items():
                    if digest(self.values(spec, row)) != self._digests[row, column]:
                        raise DamagedRowError(
                            token, spec.name, "its bytes do not have their digest"
                        )

    def _fixed(self, key: str) -> npt.NDArray[Any]:
        return np.asarray(open_array(self._source.root, key)[...])

    def _span(self, spec: ArraySpec, row: int) -> tuple[int, int]:
        """Where the row's values begin and end in a ragged array."""
        offsets = self._offsets[spec.places]
        return int(offsets[row]), int(offsets[row + 1])

    def _chunk(self, layout: ArrayLayout, index: int) -> npt.NDArray[Any]:
        """A chunk file's values in place, without the checksum behind them."""
        key = layout.chunk_key(index)
        if key not in self._mapped:
            self._source.fetch([key])
            path = self._source.root / key
            # A shorter file would end the process when its missing pages are touched.
            check_size(path, self._manifest.files[key])
            shape = (layout.chunk, *layout.shape[1:])
            self._mapped[key] = np.memmap(path, layout.dtype, mode="r", shape=shape)
        return self._mapped[key]

    def _check_index(self) -> None:
        counts = self._manifest.counts
        ends = {places: counts.places(places) for places in self._offsets}
        in_order = all(
            offsets[0] == 0 and offsets[-1] == ends[places] and (np.diff(offsets) >= 0).all()
            for places, offsets in self._offsets.items()
        )
        if len(self.row_of) != counts.rows or not in_order or not self._fixed("index/state").all():
            raise DamagedStoreError(
                f"the index of {self._source.name} contradicts its manifest; fetch the store again"
            )


def _chunks(start: int, stop: int, size: int) -> range:
    """Indices of the chunks of ``size`` values that hold some of ``start`` to ``stop``."""
    return range(start // size, -(-stop // size) if stop > start else 0)
