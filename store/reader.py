"""The reader of a store: rows by token and view, nothing damaged or missing passed on."""

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt
import torch

from frames.boxes import Boxes3D
from store.catalogue import resolve
from store.chunk import MapArray
from store.dump_plan import Plan
from store.errors import (
    DamagedRowError,
    DamagedStoreError,
    IncompleteStoreError,
    MissingTargetError,
    NotACacheError,
    UnknownTokenError,
    UnsafeStoreError,
)
from store.fingerprint import Fingerprint
from store.layout import MANIFEST, PLAN, ROWS_PER_PART, map_layout
from store.manifest import Manifest
from store.remote import Remote, is_url
from store.rows import CachedRow, RowIdentity, check_identities
from store.schema import GT_LABELS, GT_VALUES, ArraySpec
from store.sealed import SealedRows
from store.source import LocalSource, MirrorSource, Source, mirror_bytes, mirror_folder
from store.unsealed import UnsealedRows
from store.values import RowDecoder, digest

# How often a mirrored file may be gone between its fetch and its reading, or spoilt: many readers
# of a mirror that is too small, on a busy machine, evict each other's files again and again.
EVICTIONS = 12
# What is found of such a file.
FAULTS = (DamagedStoreError, UnsafeStoreError, FileNotFoundError)


@runtime_checkable
class StoredArray(Protocol):
    """An array of a store, wherever its values lie."""

    def read(self, row: int) -> npt.NDArray[Any]:
        """A copy of the row's values, not yet held against their digest.

        Raises:
            CacheError: They cannot be read.
        """

    def files(self, row: int) -> list[str]:
        """The files that hold them, of those that may have to be fetched."""


class Cache:
    """A store opened for reading; made by ``open_cache``.

    Safe to pickle into DataLoader workers (forkserver, spawn), also after the parent has read from
    it. A forked process may read a local store; one behind a URL it is refused.

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
        self._identities: list[RowIdentity] | None = None
        self._decode = RowDecoder(source.name, fingerprint)
        # What is read of a row: the column of its digest, its name, and where it lies.
        self._read = tuple(
            (column, spec.name, rows.arrays.get(spec.name) or self._map_array(spec))
            for column, spec in enumerate(fingerprint.stored)
        )

    def only(self, arrays: Collection[str]) -> "Cache":
        """The same cache, of whose rows no more than these arrays are read, or fetched.

        Args:
            arrays: Names, as in ``fingerprint.given``; the ground truth is always read.

        Raises:
            MissingTargetError: The cache has no such array.
        """
        given = {spec.name: spec for spec in self.fingerprint.given}
        if missing := sorted(set(arrays) - given.keys()):
            raise MissingTargetError(self.name, missing, sorted(given))
        wanted = {*arrays, GT_VALUES.name, GT_LABELS.name}
        wanted |= {own.name for name in arrays if (own := given[name].ranges)}
        narrowed = copy(self)
        narrowed._read = tuple(read for read in self._read if read[1] in wanted)
        return narrowed

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
        arrays = self._decode(self.stored(token, view), self._told(token, view))
        gt = Boxes3D(
            torch.from_numpy(arrays.pop(GT_VALUES.name)),
            torch.from_numpy(arrays.pop(GT_LABELS.name)),
        )
        augment = self._rows.augment(row)
        return CachedRow(token=token, view=view, augment=augment, gt=gt, arrays=arrays)

    def identities(self) -> list[RowIdentity]:
        """Who the rows are, in order; ``prev`` and ``next`` are places in this list.

        Raises:
            RowValueError: They contradict each other.
        """
        rows = self._rows.identities()
        check_identities(rows, self.views)
        return rows

    def identity(self, token: str, view: int = 0) -> RowIdentity:
        """Who a row is: its scene, time, pose and neighbours; raises as :meth:`identities`."""
        if self._identities is None:
            self._identities = self.identities()
        return self._identities[self._row(token, view)]

    def digests(self, token: str, view: int = 0) -> dict[str, int]:
        """crc32c of the stored bytes of a row's arrays, by name; read from the index alone.

        Raises:
            UnknownTokenError: The cache has no such frame or view.
        """
        names = (spec.name for spec in self.fingerprint.stored)
        return dict(zip(names, self._rows.digests(self._row(token, view)), strict=True))

    def stored(self, token: str, view: int = 0) -> dict[str, npt.NDArray[Any]]:
        """A row's arrays in their stored form, by name; raises as :meth:`row`."""
        row = self._row(token, view)
        digests = self._rows.digests(row)
        values = {}
        for column, name, array in self._read:
            try:
                found = array.read(row)
            except FAULTS:
                found = None
            if found is None or digest(found) != digests[column]:
                found = self._read_again(
                    array, row, digests[column], (self._told(token, view), name)
                )
            values[name] = found
        return values

    def read_many(self, rows: Sequence[str | tuple[str, int]]) -> list[CachedRow]:
        """Several rows, each a token (its view 0) or a token and a view; read side by side by URL.

        Raises:
            CacheError: As for one row.
        """
        pairs = [(row, 0) if isinstance(row, str) else row for row in rows]
        self.fetch(pairs)
        return [self.row(token, view) for token, view in pairs]

    def fetch(self, rows: Iterable[tuple[str, int]]) -> None:
        """Bring the files of these rows, each a token and a view, into the mirror, side by side.

        A local store needs nothing.

        Raises:
            CacheError: As for reading them.
        """
        self._fetch(self._row(token, view) for token, view in rows)

    def _fetch(self, rows: Iterable[int]) -> None:
        if self._source.evicts:
            self._source.fetch(
                key for row in rows for _, _, array in self._read for key in array.files(row)
            )

    def shards(self, tokens: Iterable[str]) -> list[int] | None:
        """Which files hold the maps of each frame, by number; frames of one number come together.

        Views of a frame count as the first one's. None if the order of reading does not matter:
        for a local store, or one without maps.

        Raises:
            UnknownTokenError: The cache has no such frame.
        """
        dense = any(isinstance(array, MapArray) for _, _, array in self._read)
        if not (self._source.evicts and dense):
            return None
        return [self._row(token, 0) // ROWS_PER_PART for token in tokens]

    def _told(self, token: str, view: int) -> str:
        return token if self.views == 1 else f"{token} view {view}"

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

    def _read_again(
        self, array: StoredArray, row: int, stated: int, told: tuple[str, str]
    ) -> npt.NDArray[Any]:
        """As another process may have evicted the file since its fetch, or it was spoilt here."""
        for _ in range(EVICTIONS if self._source.evicts else 0):
            self._source.renew(array.files(row))
            self._rows.forget_files()
            with suppress(*FAULTS):
                found = array.read(row)
                if digest(found) == stated:
                    return found
        try:
            found = array.read(row)
        except DamagedStoreError as error:
            raise DamagedRowError(self.name, *told, str(error)) from error
        if digest(found) != stated:
            raise DamagedRowError(self.name, *told, "its bytes do not have their digest")
        return found

    def _map_array(self, spec: ArraySpec) -> MapArray:
        return MapArray(self._source, map_layout(spec, len(self) * self.views))


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
        return _open_sealed(mirror, mirror.manifest)
    path = Path(location)
    if (path / MANIFEST).exists():
        return _open_sealed(LocalSource(path), Manifest.load(path))
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


def _open_sealed(source: Source, manifest: Manifest) -> Cache:
    rows = _open_rows(source, manifest)
    return Cache(source, manifest.fingerprint, rows, manifest.root_hash)


def _open_rows(source: Source, manifest: Manifest) -> SealedRows:
    for _ in range(EVICTIONS):
        try:
            return SealedRows(source, manifest)
        except FAULTS:
            if not source.evicts:
                raise
            # As when a row is read: evicted by another process, or spoilt since it arrived.
            source.renew(manifest.index_files)
    return SealedRows(source, manifest)
