"""From part records to a sealed store: pack, check everything, then write the manifest."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from store.dump_plan import Plan
from store.errors import IncompleteStoreError
from store.files import FileEntry, publish
from store.layout import ArrayLayout, offsets_key, ragged_places
from store.manifest import Counts, Manifest
from store.part import PartRecord
from store.rows import packed_names
from store.schema import Places

ROW_WHOLE = 1


def pack(root: Path, plan: Plan) -> Manifest:
    """Write every array but the maps from the part records, a few parts in memory at a time.

    Returns:
        The manifest, not yet written.

    Raises:
        IncompleteStoreError: A part is not whole.
        OSError: The disk refused.
    """
    counts, digests, shards = _gather(root, plan)
    fixed = _fixed_arrays(plan, counts, digests)
    manifest = Manifest(
        fingerprint=plan.fingerprint,
        counts=Counts(
            rows=len(plan.rows),
            places={places: int(lengths.sum()) for places, lengths in counts.items()},
            token_width=fixed["rows/token"].shape[1],
            scene_width=fixed["rows/scene"].shape[1],
        ),
        files={},
    )
    files = dict(shards)
    for key, data in manifest.metadata.items():
        files[key] = publish(root / key, data)
    for layout in manifest.fixed:
        stream = _ChunkStream(root, layout)
        stream.push(fixed[layout.key])
        files |= stream.files
    files |= _pack_ragged(root, plan, manifest.ragged)
    return manifest.model_copy(update={"files": files})


def _records(root: Path, plan: Plan) -> Iterator[tuple[int, PartRecord]]:
    for index, part in enumerate(plan.parts):
        record = plan.record(root, part)
        if record is None:
            raise IncompleteStoreError(
                f"part {index} of {len(plan.parts)} of {root} is not whole; resume the dump first"
            )
        yield index, record


def _gather(
    root: Path, plan: Plan
) -> tuple[dict[Places, npt.NDArray[np.int64]], npt.NDArray[np.uint32], dict[str, FileEntry]]:
    """Counts and digests of all rows, and the shards' entries."""
    counts: dict[Places, list[npt.NDArray[np.int64]]] = {
        places: [] for places in ragged_places(plan.fingerprint)
    }
    digests, shards = [], {}
    for index, record in _records(root, plan):
        for places, lengths in record.counts.items():
            counts[places].append(lengths)
        digests.append(record.digests)
        for layout in plan.maps:
            shards[layout.chunk_key(index)] = record.shards[layout.key]
    joined = {places: np.concatenate(lengths) for places, lengths in counts.items()}
    return joined, np.concatenate(digests), shards


def _fixed_arrays(
    plan: Plan, counts: dict[Places, npt.NDArray[np.int64]], digests: npt.NDArray[np.uint32]
) -> dict[str, npt.NDArray[Any]]:
    rows = plan.rows
    arrays: dict[str, npt.NDArray[Any]] = {
        "rows/token": packed_names([row.token for row in rows]),
        "rows/view": np.array([row.view for row in rows], np.int32),
        "rows/bev_augment": np.stack([row.bev_augment for row in rows]),
        "rows/scene": packed_names([row.scene for row in rows]),
        "rows/timestamp_us": np.array([row.timestamp_us for row in rows], np.int64),
        "rows/prev": np.array([row.prev for row in rows], np.int64),
        "rows/next": np.array([row.next for row in rows], np.int64),
        "rows/global_from_ego": np.stack([row.global_from_ego for row in rows]),
        "index/state": np.full(len(rows), ROW_WHOLE, np.uint8),
        "index/digest": digests,
    }
    for places, lengths in counts.items():
        arrays[offsets_key(places)] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return arrays


def _pack_ragged(root: Path, plan: Plan, layouts: list[ArrayLayout]) -> dict[str, FileEntry]:
    streams = [_ChunkStream(root, layout) for layout in layouts]
    for _, record in _records(root, plan):
        for stream in streams:
            stream.push(record.values[stream.layout.key])
    return {key: entry for stream in streams for key, entry in stream.files.items()}


class _ChunkStream:
    """Cuts a stream of entries into chunk files; at most a chunk and a block are in memory."""

    def __init__(self, root: Path, layout: ArrayLayout) -> None:
        self.layout = layout
        self.files: dict[str, FileEntry] = {}
        self._root = root
        self._held: list[npt.NDArray[Any]] = []

    def push(self, block: npt.NDArray[Any]) -> None:
        """Take entries, and write every chunk that they complete."""
        self._held.append(block)
        while (wanted := self._next_length()) and sum(map(len, self._held)) >= wanted:
            entries = np.concatenate(self._held)
            key = self.layout.chunk_key(len(self.files))
            self.files[key] = publish(self._root / key, self.layout.encode(entries[:wanted]))
            self._held = [entries[wanted:]]

    def _next_length(self) -> int:
        """Entries of the next chunk; fewer in the last, none after it."""
        left = self.layout.shape[0] - len(self.files) * self.layout.chunk
        return max(0, min(self.layout.chunk, left))
