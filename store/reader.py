"""The reader of a store: rows by token and view, nothing damaged or missing passed on."""

from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from frames.boxes import Boxes3D
from store.catalogue import resolve
from store.chunk import read_map
from store.dump_plan import Plan
from store.errors import (
    DamagedRowError,
    DamagedStoreError,
    IncompleteStoreError,
    NotACacheError,
    UnknownTokenError,
)
from store.layout import MANIFEST, PLAN, ROWS_PER_PART, map_layout
from store.manifest import Manifest
from store.remote import Remote, is_url
from store.rows import CachedRow, RowIdentity
from store.schema import GT_LABELS, GT_VALUES, ArraySpec, Fingerprint, Places
from store.sealed import SealedRows
from store.source import LocalSource, MirrorSource, Source, mirror_bytes, mirror_folder
from store.unsealed import UnsealedRows
from store.values import decoded_row, digest


class Cache:
    """A store opened for reading; made by ``open_cache``.

    Safe to pickle into DataLoader workers, also after the parent has read from it.

    Attributes:
        name: Where the store is: a folder or a URL.
        fingerprint: For what it was made.
        tokens: Of its frames, in order.
        views: Rows of each frame; 1 where the teacher saw the frames as they are.
        manifest_hash: The sealed store's identity; "" for an unfinished one.
    """

    def __init__(
        self,
        source: Source,
        fingerprint: Fingerprint,
        rows: SealedRows | UnsealedRows,
        manifest_hash: str,
    ) -> None:
        self.name = source.name
        self.fingerprint = fingerprint
        self.tokens = tuple(rows.row_of)
        self.views = fingerprint.views
        self.manifest_hash = manifest_hash
        self._source = source
        self._rows = rows
        self._specs = fingerprint.stored

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: str) -> bool:
        return token in self._rows.row_of

    def __getitem__(self, token: str) -> CachedRow:
        """View 0 of a frame; see :meth:`row`."""
        return self.row(token)

    def row(self, token: str, view: int = 0) -> CachedRow:
        """The row of a view of a frame; every array is held against its digest.

        Raises:
            UnknownTokenError: The cache has no such frame or view.
            DamagedRowError: An array of the row is missing or altered.
            RemoteError: The store is behind a URL that does not answer.
        """
        row = self._row(token, view)
        arrays = decoded_row(self.stored(token, view), self.fingerprint)
        gt = Boxes3D(
            torch.from_numpy(arrays.pop(GT_VALUES.name)),
            torch.from_numpy(arrays.pop(GT_LABELS.name)),
        )
        augment = self._rows.augment(row)
        return CachedRow(token=token, view=view, augment=augment, gt=gt, arrays=arrays)

    def identities(self) -> list[RowIdentity]:
        """Who the rows are, in order."""
        return self._rows.identities()

    def digests(self, token: str, view: int = 0) -> dict[str, int]:
        """crc32 of the stored bytes of a row's arrays, by name; read from the index alone.

        Raises:
            UnknownTokenError: The cache has no such frame or view.
        """
        names = (spec.name for spec in self.fingerprint.stored)
        return dict(zip(names, self._rows.digests(self._row(token, view)).tolist(), strict=True))

    def stored(self, token: str, view: int = 0) -> dict[str, npt.NDArray[Any]]:
        """A row's arrays in their stored form, by name; raises as :meth:`row`."""
        row = self._row(token, view)
        name = token if self.views == 1 else f"{token} view {view}"
        digests = self._rows.digests(row).tolist()
        return {
            spec.name: self._values(spec, name, row, stated)
            for spec, stated in zip(self._specs, digests, strict=True)
        }

    def _row(self, token: str, view: int) -> int:
        if token not in self:
            raise UnknownTokenError(
                f"cache {self.name} has no row {token!r} among its {len(self)}; "
                "was it dumped from the same data set and split?"
            )
        if not 0 <= view < self.views:
            raise UnknownTokenError(
                f"cache {self.name} has no view {view} of {token!r}: each frame has {self.views}, "
                "numbered from 0"
            )
        return self._rows.row_of[token] + view

    def _values(self, spec: ArraySpec, token: str, row: int, stated: int) -> npt.NDArray[Any]:
        try:
            return self._checked(spec, token, row, stated)
        except (DamagedStoreError, FileNotFoundError):
            if not self._source.evicts:
                raise
            # Another process may have evicted the file between its fetch and its reading.
            return self._checked(spec, token, row, stated)

    def _checked(self, spec: ArraySpec, token: str, row: int, stated: int) -> npt.NDArray[Any]:
        if spec.places is Places.MAP:
            values = self._map(spec, token, row)
        else:
            values = self._rows.values(spec, row)
        if digest(values) != stated:
            raise DamagedRowError(token, spec.name, "its bytes do not have their digest")
        return values

    def _map(self, spec: ArraySpec, token: str, row: int) -> npt.NDArray[Any]:
        layout = map_layout(spec, len(self) * self.views)
        self._source.fetch([layout.chunk_key(row // ROWS_PER_PART)])
        try:
            return read_map(self._source.root, layout, row)
        except (DamagedStoreError, ValueError, RuntimeError, OSError) as error:
            raise DamagedRowError(
                token, spec.name, f"its shard does not decode ({error})"
            ) from error


def open_cache(location: Path | str, *, allow_incomplete: bool = False) -> Cache:
    """Open a store; its index is checked now, each array of a row when it is read.

    A store behind a URL is mirrored: a file is fetched, and checked against the manifest, when it
    is first read. The mirror lies in ``BEVCACHE_MIRROR`` (else the user's cache folder) and grows
    to ``BEVCACHE_MIRROR_BYTES``.

    Args:
        location: The store's folder, its URL (s3, gs, az, http, https), or its name in the
            team's catalogue (``team:NAME``).
        allow_incomplete: Read the committed parts of an unfinished local store too.

    Raises:
        NotACacheError: There is no store.
        IncompleteStoreError: The dump has not finished.
        FormatVersionError: Written in another format.
        DamagedStoreError: A file is missing or altered; ``DamagedRowError`` where a row is known.
        UnsafeStoreError: It holds something that format 1 never writes.
        RemoteError: The URL cannot be used, or its service does not answer.
        CatalogueError: The name is not listed, or names another store than the one found.
    """
    place = resolve(location)
    cache = _open(place.location, allow_incomplete=allow_incomplete)
    place.check(cache.manifest_hash)
    return cache


def _open(location: Path | str, *, allow_incomplete: bool) -> Cache:
    if is_url(str(location)):
        mirror = MirrorSource(Remote(str(location)), mirror_folder(), mirror_bytes())
        return _open_sealed(mirror)
    path = Path(location)
    if (path / MANIFEST).exists():
        return _open_sealed(LocalSource(path))
    if not (path / PLAN).exists():
        raise NotACacheError(
            f"{path} holds neither {MANIFEST} nor {PLAN}: expected the folder of a store, "
            "as dump-teacher writes it"
        )
    plan = Plan.load(path)
    rows = UnsealedRows(path, plan)
    if not allow_incomplete:
        raise IncompleteStoreError(
            f"{path} is unfinished: {rows.parts_done} of {rows.parts_total} parts are committed "
            "and it is not sealed. Run the same bevcache dump-teacher command with --resume"
        )
    return Cache(LocalSource(path), plan.fingerprint, rows, "")


def _open_sealed(source: Source) -> Cache:
    manifest = Manifest.load(source.root)
    rows = SealedRows(source, manifest)
    return Cache(source, manifest.fingerprint, rows, manifest.root_hash)
