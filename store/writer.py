"""The writer of a store: parts in any order, each whole or absent, then one seal.

A part's map shards come first, its record last: the record is the commit mark. Whatever kills the
process, at most the part under way is lost, and the finished store is the same to the byte.

Several processes may write parts of one store, even the same part: they take turns, and the first
to commit a part decides it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from store.destination import LOCK, begin, refuse_sealed, refuse_taken, remove_scaffold
from store.dump_plan import Plan
from store.errors import (
    DamagedRowError,
    DamagedStoreError,
    FingerprintError,
    RowValueError,
    StoreWriteError,
)
from store.files import FileEntry, make_folder, only_one, publish
from store.fingerprint import Fingerprint
from store.layout import (
    MANIFEST,
    ROWS_PER_PART,
    ragged_places,
)
from store.manifest import Manifest
from store.part import PartRecord, lock_path, record_path
from store.reader import Cache
from store.rows import RowIdentity, RowValues, check_identities, token_hash
from store.schema import Places
from store.seal import pack
from store.sealed import SealedRows
from store.source import LocalSource
from store.values import checked_row, digest


class StoreWriter:
    """Writes one store; made by ``StoreWriter.open``, or ``join`` in a further process.

    Attributes:
        path: The store's folder.
        parts: The rows that are committed together, in order.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path = path
        self.parts = plan.parts
        self._plan = plan

    @classmethod
    def open(
        cls,
        path: Path,
        fingerprint: Fingerprint,
        rows: Sequence[RowIdentity],
        *,
        resume: bool = False,
    ) -> "StoreWriter":
        """Begin a store, or go on with an unfinished one.

        Args:
            path: Folder of the store; made if missing.
            fingerprint: What it is made for.
            rows: Its rows, in order.
            resume: Go on where an earlier dump stopped.

        Raises:
            RowValueError: The rows cannot be told apart, or are not those of the fingerprint.
            SealedStoreError: The store is finished.
            StoreExistsError: The folder holds something else, or an unfinished store without
                ``resume``.
            FingerprintError: The unfinished store was made for something else.
            UnsafeStoreError: A link in the folder may lead elsewhere.
            StoreWriteError: The folder cannot be written.
        """
        check_identities(rows, fingerprint.views)
        tokens = [row.token for row in rows if row.view == 0]
        if token_hash(tokens) != fingerprint.dataset.token_hash:
            raise RowValueError("the rows' tokens do not have the fingerprint's dataset.token_hash")
        plan = Plan(fingerprint=fingerprint, rows=tuple(rows))
        refuse_taken(path, resume=resume)
        with _explained(path, "begin the store", plan):
            make_folder(path)
            with only_one(path / LOCK):
                # Another dump may have begun or ended a moment ago.
                refuse_taken(path, resume=resume)
                begin(path, plan)
        return cls(path, plan)

    @classmethod
    def join(cls, path: Path, plan_hash: str) -> "StoreWriter":
        """Help with a dump that another process has begun and will seal.

        Args:
            path: Folder of the store.
            plan_hash: Of that process's writer.

        Raises:
            DamagedStoreError: There is no plan, or it is damaged.
            FingerprintError: It is the plan of something else.
        """
        writer = cls(path, Plan.load(path))
        if writer.plan_hash != plan_hash:
            raise FingerprintError(
                path,
                [f"plan: found {writer.plan_hash[:12]}, expected {plan_hash[:12]}"],
                "Another dump has begun there; dump into another folder.",
            )
        return writer

    @property
    def plan_hash(self) -> str:
        """sha256 of the plan: fingerprint and row identities."""
        return self._plan.hash

    @property
    def fingerprint(self) -> Fingerprint:
        """What the store is made for."""
        return self._plan.fingerprint

    @property
    def rows(self) -> tuple[RowIdentity, ...]:
        """Who the rows are, in order."""
        return self._plan.rows

    @property
    def pending_parts(self) -> list[range]:
        """The parts still to write; asks the disk, so keep the answer."""
        return [part for part in self.parts if not self.is_committed(part)]

    def is_committed(self, part: range) -> bool:
        """Whether a part is whole on the disk, whoever wrote it."""
        return self._plan.record(self.path, part) is not None

    def write_part(self, part: range, values: Sequence[RowValues]) -> None:
        """Commit one part, unless it is committed: what is there stays.

        Args:
            part: One of ``parts``.
            values: Of its rows, in order.

        Raises:
            RowValueError: The values do not fit the plan; nothing is written.
            SealedStoreError: Others have finished the store meanwhile.
            StoreWriteError: The disk refused; the part is not committed.
        """
        self._check_part(part, len(values))
        fingerprint = self._plan.fingerprint
        rows = [
            checked_row(row_values, self._plan.rows[row].token, fingerprint)
            for row, row_values in zip(part, values, strict=True)
        ]
        self.write_stored(part, rows)

    def write_stored(self, part: range, rows: Sequence[list[npt.NDArray[Any]]]) -> None:
        """Commit one part whose values are in their stored form already, unless it is committed.

        Args:
            part: One of ``parts``.
            rows: Of each of its rows the arrays, in the order of ``Fingerprint.stored``; they are
                not checked again.

        Raises:
            RowValueError: They are no part of this store; nothing is written.
            SealedStoreError: Others have finished the store meanwhile.
            StoreWriteError: The disk refused; the part is not committed.
        """
        self._check_part(part, len(rows))
        stored = self._plan.fingerprint.stored
        columns = dict(zip((s.name for s in stored), zip(*rows, strict=True), strict=True))
        refuse_sealed(self.path)
        with (
            self._explained(f"write rows {part.start} to {part.stop - 1}"),
            only_one(lock_path(self.path, part)),
        ):
            if self.is_committed(part):
                return
            # Another process may have sealed it while this one waited.
            refuse_sealed(self.path)
            record_path(self.path, part).unlink(missing_ok=True)
            shards = self._write_shards(part, columns)
            record = self._record(rows, columns, shards)
            publish(record_path(self.path, part), record.encode())

    def _check_part(self, part: range, count: int) -> None:
        if part not in self.parts:
            raise RowValueError(f"{part} is no part of this store; see StoreWriter.parts")
        if count != len(part):
            raise RowValueError(f"{part} has {len(part)} rows, found the values of {count}")

    def _write_shards(
        self, part: range, columns: dict[str, tuple[npt.NDArray[Any], ...]]
    ) -> dict[str, FileEntry]:
        return {
            layout.key: publish(
                self.path / layout.chunk_key(part.start // ROWS_PER_PART),
                layout.encode(np.stack(columns[layout.key])),
            )
            for layout in self._plan.maps
        }

    def _record(
        self,
        rows: Sequence[list[npt.NDArray[Any]]],
        columns: dict[str, tuple[npt.NDArray[Any], ...]],
        shards: dict[str, FileEntry],
    ) -> PartRecord:
        ragged = [s for s in self._plan.fingerprint.stored if s.places is not Places.MAP]
        lengths = {
            s.places.counted_as: np.array([len(v) for v in columns[s.name]], np.int64)
            for s in ragged
        }
        return PartRecord(
            plan=self.plan_hash,
            counts={places: lengths[places] for places in ragged_places(self._plan.fingerprint)},
            values={s.name: np.concatenate(columns[s.name]) for s in ragged},
            digests=np.array([[digest(array) for array in row] for row in rows], np.uint32),
            shards=shards,
        )

    def finalise(self) -> str:
        """Pack the small targets, check every row, and seal the store.

        Returns:
            The manifest's hash: the identity of the store.

        Raises:
            IncompleteStoreError: Some parts are not written yet.
            DamagedStoreError: Something was damaged since it was written; a part with a damaged
                map is pending again.
            FingerprintError: Another dump has begun, or was sealed, in the folder.
            StoreWriteError: The disk refused; call again, nothing is lost.
        """
        if not (self.path / MANIFEST).exists():
            with self._explained("seal the store"), only_one(self.path / LOCK):
                # Another process may have sealed it while this one waited.
                if not (self.path / MANIFEST).exists():
                    self._seal()
                remove_scaffold(self.path)
        manifest = Manifest.load(self.path)
        if mismatches := manifest.fingerprint.mismatches(self.fingerprint):
            raise FingerprintError(
                self.path, mismatches, "Another dump was sealed there; dump into another folder."
            )
        return manifest.root_hash

    def _seal(self) -> None:
        # The folder may have been removed, and another dump have begun there.
        StoreWriter.join(self.path, self.plan_hash)
        manifest = pack(self.path, self._plan)
        source = LocalSource(self.path)
        cache = Cache(source, manifest.fingerprint, SealedRows(source, manifest), "")
        for part in self.parts:
            for row in self.rows[part.start : part.stop]:
                self._verify(cache, row, part)
        publish(self.path / MANIFEST, manifest.encode())

    def _verify(self, cache: Cache, row: RowIdentity, part: range) -> None:
        try:
            cache.row(row.token, row.view)
        except DamagedRowError as error:
            if error.array not in {layout.key for layout in self._plan.maps}:
                # The record is right; the small targets are packed from it again.
                raise
            record_path(self.path, part).unlink()
            raise DamagedStoreError(
                f"{error} Rows {part.start} to {part.stop - 1} are pending again: resume."
            ) from error

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        with _explained(self.path, doing, self._plan):
            yield


@contextmanager
def _explained(path: Path, doing: str, plan: Plan) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        committed = sum(record_path(path, part).is_file() for part in plan.parts)
        raise StoreWriteError(
            f"cannot {doing} in {path}: {error.strerror} ({error.filename}). {committed} of "
            f"{len(plan.parts)} parts are committed and stay; once the disk takes writes again, "
            "run the same command again (dump-teacher: with --resume)"
        ) from error
