"""A sealed store on disk: checked against its manifest at open, then mapped."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from store.errors import (
    AlteredFileError,
    DamagedRowError,
    DamagedStoreError,
    UnsafeStoreError,
)
from store.guard import check_file, check_metadata, refuse_links
from store.layout import ArrayLayout, offsets_key, ragged_places, store_metadata
from store.manifest import Manifest
from store.map_reader import open_array
from store.rows import unpacked_names
from store.schema import ArraySpec, Places
from store.values import digest


class SealedRows:
    """The small targets and the index of a sealed store.

    Ragged arrays are mapped into memory, so that all processes of a machine share one copy.
    Pickling drops the mappings.

    Attributes:
        row_of: Row of each token, in row order.
    """

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self._root = root
        self._manifest = manifest
        _check_files(root, manifest)
        for layout in manifest.fixed:
            for key in layout.chunk_keys:
                check_file(root / key, manifest.files[key])
        tokens = unpacked_names(self._fixed("rows/token"))
        self.row_of = {token: row for row, token in enumerate(tokens)}
        self._digests = self._fixed("index/digest")
        self._offsets = {
            places: self._fixed(offsets_key(places))
            for places in ragged_places(manifest.fingerprint)
        }
        self._mapped: dict[str, list[npt.NDArray[Any]]] = {}
        self._check_index()
        columns = [spec.name for spec in manifest.fingerprint.stored]
        for layout in manifest.ragged:
            self._check_ragged(layout, columns.index(layout.key))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_mapped": {}}

    def digests(self, row: int) -> npt.NDArray[np.uint32]:
        """crc32 of the row's decoded bytes, in the order of ``Fingerprint.stored``."""
        return np.asarray(self._digests[row])

    def values(self, spec: ArraySpec, row: int) -> npt.NDArray[Any]:
        """A copy of the row's values of a ragged array."""
        start, stop = (int(offset) for offset in self._offsets[spec.places][row : row + 2])
        chunks = self._chunks(spec.name)
        size = len(chunks[0]) if chunks else 1
        pieces = [
            chunks[index][max(start - index * size, 0) : stop - index * size]
            for index in range(start // size, -(-stop // size))
        ]
        return np.concatenate([np.empty((0, *spec.shape), spec.dtype), *pieces])

    def check_rows(self) -> None:
        """Hold every row's small targets against their digests.

        Raises:
            DamagedRowError: One differs.
        """
        for column, spec in enumerate(self._manifest.fingerprint.stored):
            if spec.places is not Places.MAP:
                self._check_rows_of(spec, column)

    def _check_rows_of(self, spec: ArraySpec, column: int) -> None:
        for token, row in self.row_of.items():
            if digest(self.values(spec, row)) != self._digests[row, column]:
                raise DamagedRowError(token, spec.name, "its bytes do not have their digest")

    def _fixed(self, key: str) -> npt.NDArray[Any]:
        return np.asarray(open_array(self._root, key)[...])

    def _chunks(self, key: str) -> list[npt.NDArray[Any]]:
        if key not in self._mapped:
            layout = next(layout for layout in self._manifest.ragged if layout.key == key)
            self._mapped[key] = [
                _mapped(self._root / chunk_key, layout) for chunk_key in layout.chunk_keys
            ]
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
                f"the index of {self._root} contradicts its manifest; fetch the store again"
            )

    def _check_ragged(self, layout: ArrayLayout, column: int) -> None:
        for key in layout.chunk_keys:
            try:
                check_file(self._root / key, self._manifest.files[key])
            except AlteredFileError:
                # The file has its size: its rows can be read, and the damaged one named.
                self._check_rows_of(self._manifest.fingerprint.stored[column], column)
                raise


def _check_files(root: Path, manifest: Manifest) -> None:
    layouts = [*manifest.maps, *manifest.ragged, *manifest.fixed]
    keys = [*store_metadata(layouts), *(key for layout in layouts for key in layout.chunk_keys)]
    if odd := sorted(set(keys) ^ manifest.files.keys()):
        raise UnsafeStoreError(f"{root}: format 1 and the manifest disagree on files {odd[:5]}")
    refuse_links(root, keys)
    check_metadata(root, layouts)


def _mapped(path: Path, layout: ArrayLayout) -> npt.NDArray[Any]:
    """A chunk file's values in place, without the checksum behind them."""
    shape = (layout.chunk, *layout.shape[1:])
    return np.memmap(path, layout.dtype, mode="r", shape=shape)
