"""The rows of a sealed store: who they are, and the values of its ragged arrays."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from frames.augment import BevAugment
from store.chunk import read_fixed
from store.errors import DamagedStoreError, UnsafeStoreError
from store.guard import check_file, check_metadata
from store.layout import offsets_key, ragged_places
from store.manifest import Manifest
from store.ragged import OpenChunks, RaggedArray
from store.rows import RowIdentity, unpacked_names
from store.schema import MAX_ROW_BYTES, Places
from store.source import Source


class SealedRows:
    """Rows of the ragged arrays; the index is held, the values stay on the disk.

    Attributes:
        row_of: Row of each token's view 0, in row order.
        arrays: The ragged ones, by name.
    """

    def __init__(self, source: Source, manifest: Manifest) -> None:
        self._source = source
        self._manifest = manifest
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
        self._chunks = OpenChunks(source, manifest)
        specs = {spec.name: spec for spec in manifest.fingerprint.stored}
        self.arrays: dict[str, RaggedArray] = {
            layout.key: RaggedArray(
                layout, self._offsets[specs[layout.key].places.counted_as], self._chunks
            )
            for layout in manifest.ragged
        }
        self._check_index()

    def digests(self, row: int) -> list[int]:
        """crc32c of the row's decoded bytes, in the order of ``Fingerprint.stored``."""
        digests: list[int] = self._digests[row].tolist()
        return digests

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
        largest = np.sum([array.row_bytes for array in self.arrays.values()], axis=0).max()
        if largest > MAX_ROW_BYTES:
            raise UnsafeStoreError(
                f"{self._source.name} has a row of {largest:.0f} bytes; at most {MAX_ROW_BYTES} fit"
            )

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
