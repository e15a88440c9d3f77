"""The reader of a store: rows by token, nothing damaged or missing passed on."""

from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from frames.boxes import Boxes3D
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
from store.rows import CachedRow
from store.schema import GT_LABELS, GT_VALUES, ArraySpec, Fingerprint, Places
from store.sealed import SealedRows
from store.source import LocalSource, MirrorSource, Source, mirror_bytes, mirror_folder
from store.unsealed import UnsealedRows
from store.values import digest


class Cache:
    """A store opened for reading; made by ``open_cache``.

    Safe to pickle into DataLoader workers, also after the parent has read from it.

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
        self._specs = fingerprint.stored

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
        if token not in self:
            raise UnknownTokenError(
                f"cache {self.name} has no row {token!r} among its {len(self)}; "
                "was it dumped from the same data set and split?"
            )
        row = self._rows.row_of[token]
        digests = self._rows.digests(row).tolist()
        arrays = {
            spec.name: self._values(spec, token, row, stated)
            for spec, stated in zip(self._specs, digests, strict=True)
        }
        gt = Boxes3D(
            torch.from_numpy(arrays.pop(GT_VALUES.name)),
            torch.from_numpy(arrays.pop(GT_LABELS.name)),
        )
        return CachedRow(token=token, gt=gt, arrays=arrays)

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
        layout = map_layout(spec, len(self))
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
