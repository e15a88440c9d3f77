"""The reader of a store: rows by token, nothing damaged or missing passed on."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from frames.boxes import Boxes3D
from store.dump_plan import Plan
from store.errors import (
    DamagedRowError,
    DamagedStoreError,
    IncompleteStoreError,
    NotACacheError,
    UnknownTokenError,
    UnsafeStoreError,
)
from store.layout import MANIFEST, PLAN, ROWS_PER_PART, map_layout
from store.manifest import Manifest
from store.map_reader import MapReader
from store.remote import Remote, is_url
from store.rows import CachedRow
from store.schema import GT_LABELS, GT_VALUES, ArraySpec, Fingerprint, Places
from store.sealed import SealedRows
from store.source import LocalSource, MirrorSource, Source, mirror_bytes, mirror_folder
from store.unsealed import UnsealedRows
from store.values import digest

# How often a mirrored file may be gone between its fetch and its reading, or spoilt.
EVICTIONS = 4


class Cache:
    """A store opened for reading; made by ``open_cache``.

    Safe to pickle into DataLoader workers (forkserver, spawn), also after the parent has read from
    it. A forked process may read a local store; one behind a URL it is refused.

    Attributes:
        name: Where the store is: a folder or a URL.
        fingerprint: For what it was made.
        tokens: Of its rows, in order.
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
        self.manifest_hash = manifest_hash
        self._source = source
        self._rows = rows
        self._maps = MapReader(source.root)

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: str) -> bool:
        return token in self._rows.row_of

    def __getitem__(self, token: str) -> CachedRow:
        """The row of a frame; every array is held against its digest.

        Raises:
            UnknownTokenError: The cache has no such frame.
            DamagedRowError: An array of the row is missing or altered.
            RemoteError: The store is behind a URL that does not answer.
        """
        row = self._row(token)
        arrays = {
            spec.name: self._values(spec, token, row, column)
            for column, spec in enumerate(self.fingerprint.stored)
        }
        gt = Boxes3D(
            torch.from_numpy(arrays.pop(GT_VALUES.name)),
            torch.from_numpy(arrays.pop(GT_LABELS.name)),
        )
        return CachedRow(token=token, gt=gt, arrays=arrays)

    def read_many(self, tokens: Sequence[str]) -> list[CachedRow]:
        """The rows of several frames; of a store behind a URL their files come side by side.

        Raises:
            CacheError: As for one row.
        """
        self.fetch(tokens)
        return [self[token] for token in tokens]

    def fetch(self, tokens: Iterable[str]) -> None:
        """Bring the files of these frames' rows into the mirror; a local store needs nothing.

        Raises:
            CacheError: As for reading them.
        """
        if self._source.evicts:
            rows = [self._row(token) for token in tokens]
            specs = self.fingerprint.stored
            self._source.fetch(
                key for row in rows for spec in specs for key in self._files(spec, row)
            )

    def shards(self, tokens: Iterable[str]) -> list[int] | None:
        """Which files hold the maps of each frame, by number; rows of one number come together.

        None if the order of reading does not matter: for a local store, or one without maps.

        Raises:
            UnknownTokenError: The cache has no such frame.
        """
        dense = any(spec.places is Places.MAP for spec in self.fingerprint.arrays)
        if not (self._source.evicts and dense):
            return None
        return [self._row(token) // ROWS_PER_PART for token in tokens]

    def _row(self, token: str) -> int:
        if token not in self:
            raise UnknownTokenError(
                f"cache {self.name} has no row {token!r} among its {len(self)}; "
                "was it dumped from the same data set and split?"
            )
        return self._rows.row_of[token]

    def _values(self, spec: ArraySpec, token: str, row: int, column: int) -> npt.NDArray[Any]:
        for _ in range(EVICTIONS):
            try:
                return self._checked(spec, token, row, column)
            except (DamagedStoreError, FileNotFoundError):
                if not self._source.evicts:
                    raise
                # Another process has evicted the file since its fetch, or it was spoilt here.
                self._renew(self._files(spec, row))
        return self._checked(spec, token, row, column)

    def _renew(self, keys: list[str]) -> None:
        self._source.renew(keys)
        self._rows.forget(keys)
        self._maps = MapReader(self._source.root)

    def _files(self, spec: ArraySpec, row: int) -> list[str]:
        if spec.places is not Places.MAP:
            return self._rows.files(spec, row)
        layout = map_layout(spec, len(self))
        return [layout.metadata_key, layout.chunk_key(row // ROWS_PER_PART)]

    def _checked(self, spec: ArraySpec, token: str, row: int, column: int) -> npt.NDArray[Any]:
        if spec.places is Places.MAP:
            values = self._map(spec, token, row)
        else:
            values = self._rows.values(spec, row)
        if digest(values) != self._rows.digests(row)[column]:
            raise DamagedRowError(token, spec.name, "its bytes do not have their digest")
        return values

    def _map(self, spec: ArraySpec, token: str, row: int) -> npt.NDArray[Any]:
        self._source.fetch(self._files(spec, row))
        try:
            return self._maps.read(spec.name, row)
        except (ValueError, RuntimeError, OSError) as error:
            raise DamagedRowError(
                token, spec.name, f"its shard does not decode ({error})"
            ) from error


def open_cache(location: Path | str, *, allow_incomplete: bool = False) -> Cache:
    """Open a store; its index is checked now, each array of a row when it is read.

    A store behind a URL is mirrored: a file is fetched, and checked against the manifest, when it
    is first read. The mirror lies in ``BEVCACHE_MIRROR`` (else the user's cache folder) and grows
    to ``BEVCACHE_MIRROR_BYTES``.

    Args:
        location: The store's folder, or its URL (s3, gs, az, http, https).
        allow_incomplete: Read the committed parts of an unfinished local store too.

    Raises:
        NotACacheError: There is no store.
        IncompleteStoreError: The dump has not finished.
        FormatVersionError: Written in another format.
        DamagedStoreError: A file is missing or altered; ``DamagedRowError`` where a row is known.
        UnsafeStoreError: It holds something that format 1 never writes.
        RemoteError: The URL cannot be used, or its service does not answer.
    """
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
        except (DamagedStoreError, UnsafeStoreError, FileNotFoundError):
            if not source.evicts:
                raise
            # As when a row is read: evicted by another process, or spoilt since it arrived.
            source.renew(manifest.index_files)
    return SealedRows(source, manifest)
