"""The reader of a store: rows by token, nothing damaged or missing passed on."""

from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from frames.boxes import Boxes3D
from store.dump_plan import Plan
from store.errors import (
    DamagedRowError,
    IncompleteStoreError,
    NotACacheError,
    UnknownTokenError,
)
from store.layout import MANIFEST, PLAN
from store.manifest import Manifest
from store.map_reader import MapReader
from store.rows import CachedRow
from store.schema import GT_LABELS, GT_VALUES, ArraySpec, Fingerprint, Places
from store.sealed import SealedRows
from store.unsealed import UnsealedRows
from store.values import digest


class Cache:
    """A store opened for reading; made by ``open_cache``.

    Safe to pickle into DataLoader workers, also after the parent has read from it.

    Attributes:
        path: The store's folder.
        fingerprint: For what it was made.
        tokens: Of its rows, in order.
        manifest_hash: The sealed store's identity; "" for an unfinished one.
    """

    def __init__(
        self,
        path: Path,
        fingerprint: Fingerprint,
        rows: SealedRows | UnsealedRows,
        manifest_hash: str,
    ) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self.tokens = tuple(rows.row_of)
        self.manifest_hash = manifest_hash
        self._rows = rows
        self._maps = MapReader(path)

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: str) -> bool:
        return token in self._rows.row_of

    def __getitem__(self, token: str) -> CachedRow:
        """The row of a frame.

        Raises:
            UnknownTokenError: The cache has no such frame.
            DamagedRowError: An array of the row is missing or altered.
        """
        if token not in self:
            raise UnknownTokenError(
                f"cache {self.path} has no row {token!r} among its {len(self)}; "
                "was it dumped from the same data set and split?"
            )
        row = self._rows.row_of[token]
        arrays = {
            spec.name: self._checked_map(spec, token, row, column)
            if spec.places is Places.MAP
            else self._rows.values(spec, row)
            for column, spec in enumerate(self.fingerprint.stored)
        }
        gt = Boxes3D(
            torch.from_numpy(arrays.pop(GT_VALUES.name)),
            torch.from_numpy(arrays.pop(GT_LABELS.name)),
        )
        return CachedRow(token=token, gt=gt, arrays=arrays)

    def _checked_map(self, spec: ArraySpec, token: str, row: int, column: int) -> npt.NDArray[Any]:
        try:
            values = self._maps.read(spec.name, row)
        except (ValueError, RuntimeError, OSError) as error:
            raise DamagedRowError(
                token, spec.name, f"its shard does not decode ({error})"
            ) from error
        if digest(values) != self._rows.digests(row)[column]:
            raise DamagedRowError(token, spec.name, "its bytes do not have their digest")
        return values


def open_cache(path: Path, *, allow_incomplete: bool = False) -> Cache:
    """Open a store; every file but the maps is checked now, each map when it is read.

    Args:
        path: The store's folder.
        allow_incomplete: Read the committed parts of an unfinished store too.

    Raises:
        NotACacheError: There is no store.
        IncompleteStoreError: The dump has not finished.
        FormatVersionError: Written in another format.
        DamagedStoreError: A file is missing or altered; ``DamagedRowError`` where a row is known.
        UnsafeStoreError: It holds something that format 1 never writes.
    """
    if (path / MANIFEST).exists():
        manifest = Manifest.load(path)
        return Cache(path, manifest.fingerprint, SealedRows(path, manifest), manifest.root_hash)
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
    return Cache(path, plan.fingerprint, rows, "")
