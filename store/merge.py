"""Merge finished stores of one teacher into a new one: more rows, or more targets of the same rows.

The stores that are merged stay as they are, so that nothing a running training reads ever changes.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy.typing as npt

from store.errors import FingerprintError, SealedStoreError
from store.fingerprint import Fingerprint
from store.manifest import Manifest
from store.merge_check import array_faults, fingerprint_faults, row_faults, unequal
from store.merge_rows import joined_rows
from store.reader import Cache, open_cache
from store.rows import RowIdentity, token_hash
from store.verify import finished_store
from store.writer import StoreWriter


class MergeKind(StrEnum):
    """What a merged store has more of than each of its sources."""

    ROWS = "rows"
    TARGETS = "targets"


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """A merge that has been checked, before anything is written; made by ``plan_merge``.

    Attributes:
        kind: What is joined.
        fingerprint: Of the new store.
        rows: Its rows, in order.
        size: Bytes of the sources' files that go into it.
        caches: The sources, in the order given.
    """

    kind: MergeKind
    fingerprint: Fingerprint
    rows: tuple[RowIdentity, ...]
    size: int
    caches: tuple[Cache, ...]

    def write(self, out: Path, on_rows: Callable[[int], None] = lambda _rows: None) -> str:
        """Write the new store; call again after an interruption, what is committed is kept.

        Args:
            out: Its folder: empty, missing, or begun by the same merge.
            on_rows: Told how many further rows are committed.

        Returns:
            The new store's manifest hash.

        Raises:
            SealedStoreError: The folder holds another finished store.
            StoreExistsError: It holds something else.
            FingerprintError: It holds an unfinished store of something else, or two sources say
                different things of the same array of a row.
            DamagedRowError: A row of a source is not as it was written.
            StoreWriteError: The disk refused.
        """
        try:
            writer = StoreWriter.open(out, self.fingerprint, self.rows, resume=True)
        except SealedStoreError:
            found = Manifest.load(out)
            if found.fingerprint != self.fingerprint:
                raise
            return found.root_hash
        pending = writer.pending_parts
        on_rows(len(self.rows) - sum(map(len, pending)))
        for part in pending:
            writer.write_stored(part, [self._stored(self.rows[row]) for row in part])
            on_rows(len(part))
        return writer.finalise()

    def _stored(self, row: RowIdentity) -> list[npt.NDArray[Any]]:
        """A row's arrays as its sources store them, bit for bit, in the new store's order."""
        arrays: dict[str, npt.NDArray[Any]] = {}
        for cache in self.caches:
            known = cache.stored(row.token, row.view) if row.token in cache else {}
            for name, values in known.items():
                if name in arrays and arrays[name].tobytes() != values.tobytes():
                    raise _refusal(self.caches, [unequal(cache, name, [row.token])])
                arrays[name] = values
        return [arrays[spec.name] for spec in self.fingerprint.stored]


def plan_merge(places: Sequence[Path | str]) -> Merge:
    """Check whether and how stores can be merged; nothing but their indices is read.

    Args:
        places: Two or more finished stores: folders, URLs or ``team:NAME``.

    Raises:
        FingerprintError: They do not fit; lists everything that differs from the first.
        CacheError: One cannot be read.
    """
    manifests = [finished_store(place)[1] for place in places]
    caches = tuple(open_cache(place) for place in places)
    rows = [cache.identities() for cache in caches]
    frames = [(cache.tokens, cache.views) for cache in caches]
    kind = MergeKind.TARGETS if frames.count(frames[0]) == len(frames) else MergeKind.ROWS
    faults = list(fingerprint_faults(caches))
    if kind is MergeKind.ROWS:
        faults += row_faults(caches)
    else:
        faults += array_faults(caches, rows)
    if faults:
        raise _refusal(caches, faults)
    joined = tuple(joined_rows(rows) if kind is MergeKind.ROWS else rows[0])
    return Merge(
        kind=kind,
        fingerprint=_fingerprint(caches, joined),
        rows=joined,
        size=_size(manifests, kind),
        caches=caches,
    )


def _fingerprint(caches: Sequence[Cache], rows: Sequence[RowIdentity]) -> Fingerprint:
    prints = [cache.fingerprint for cache in caches]
    changes = {
        "split": _plus(made_for.dataset.split for made_for in prints),
        "token_hash": token_hash(dict.fromkeys(row.token for row in rows)),
    }
    fields = {
        "dataset": prints[0].dataset.model_copy(update=changes),
        # Stores without values at cells have none; all others agree.
        "masks": next((made_for.masks for made_for in prints if made_for.masks), ()),
        "label_encoder": next((p.label_encoder for p in prints if p.label_encoder), None),
        "arrays": tuple({s.name: s for made_for in prints for s in made_for.arrays}.values()),
        "code_revision": _plus(made_for.code_revision for made_for in prints),
        "sources": tuple(cache.manifest_hash for cache in caches),
    }
    try:
        return Fingerprint.model_validate(dict(prints[0]) | fields)
    except ValueError as error:
        raise _refusal(caches, [str(error)]) from error


def _plus(texts: Iterable[str]) -> str:
    """What differs, joined: a, b and a give "a+b"."""
    return "+".join(dict.fromkeys(part for text in texts for part in text.split("+")))


def _size(manifests: Sequence[Manifest], kind: MergeKind) -> int:
    if kind is MergeKind.ROWS:
        return sum(manifest.size for manifest in manifests)
    files = {key: entry.size for manifest in manifests for key, entry in manifest.files.items()}
    return sum(files.values())


def _refusal(caches: Sequence[Cache], faults: list[str]) -> FingerprintError:
    return FingerprintError(
        caches[0].name,
        faults,
        "Stores of one teacher, grid and ground truth can be merged: of different frames with the "
        "same arrays, or of the same frames with different arrays.",
    )
