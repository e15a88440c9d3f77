"""The plan file: what an unfinished store is going to be, written before anything else."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from store.errors import DamagedStoreError
from store.files import read_sealed_json, sealed_json
from store.layout import PLAN, ROWS_PER_PART, ArrayLayout, map_layout
from store.part import PartRecord, record_path
from store.rows import RowIdentity
from store.schema import FORMAT_VERSION, Fingerprint, Places


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a dump is going to write.

    Attributes:
        fingerprint: For what.
        rows: Identities in order.
    """

    fingerprint: Fingerprint
    rows: tuple[RowIdentity, ...]

    @property
    def parts(self) -> list[range]:
        """Consecutive rows that are committed together."""
        count = len(self.rows)
        return [
            range(start, min(start + ROWS_PER_PART, count))
            for start in range(0, count, ROWS_PER_PART)
        ]

    @property
    def maps(self) -> list[ArrayLayout]:
        """The arrays of whole maps."""
        return [
            map_layout(spec, len(self.rows))
            for spec in self.fingerprint.arrays
            if spec.places is Places.MAP
        ]

    def encode(self) -> bytes:
        """The plan's file."""
        return sealed_json(
            {
                "format": FORMAT_VERSION,
                "fingerprint": self.fingerprint.model_dump(mode="json"),
                "rows": [_row_document(row) for row in self.rows],
            }
        )

    @classmethod
    def load(cls, root: Path) -> "Plan":
        """The plan of an unfinished store.

        Raises:
            FormatVersionError: Written in another format.
            DamagedStoreError: Not as it was written.
        """
        document = read_sealed_json(root / PLAN)
        try:
            return cls(
                fingerprint=Fingerprint.model_validate(document["fingerprint"]),
                rows=tuple(_row(row) for row in document["rows"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedStoreError(f"{root / PLAN} is not a plan: {error}") from error

    def record(self, root: Path, part: range) -> PartRecord | None:
        """The record of a part if the part is whole: record valid and every shard there."""
        try:
            record = PartRecord.load(record_path(root, part))
        except DamagedStoreError:
            return None
        for layout in self.maps:
            shard = root / layout.chunk_key(part.start // ROWS_PER_PART)
            if not shard.is_file() or shard.stat().st_size != record.shards[layout.key].size:
                return None
        return record


def _row_document(row: RowIdentity) -> dict[str, Any]:
    return {
        "token": row.token,
        "scene": row.scene,
        "timestamp_us": row.timestamp_us,
        "global_from_ego": row.global_from_ego.tolist(),
        "prev": row.prev,
        "next": row.next,
        "view": row.view,
        "bev_augment": row.bev_augment.tolist(),
    }


def _row(document: dict[str, Any]) -> RowIdentity:
    pose = np.array(document["global_from_ego"], dtype=np.float64)
    matrix = np.array(document["bev_augment"], dtype=np.float32)
    return RowIdentity(**(document | {"global_from_ego": pose, "bev_augment": matrix}))
