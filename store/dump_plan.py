"""The plan file: what an unfinished store is going to be, written before anything else."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from store.errors import DamagedStoreError
from store.files import read_sealed_json, sealed_json
from store.fingerprint import Fingerprint
from store.layout import PLAN, ROWS_PER_PART, ArrayLayout, map_layout
from store.part import PartRecord, record_path
from store.rows import RowIdentity, check_identities
from store.schema import FORMAT_VERSION, Places

_Int64 = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]
_Float32 = Annotated[float, Field(ge=-1e38, le=1e38)]
_Row3 = tuple[_Float32, _Float32, _Float32]
_Row4 = tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]


class _RowDocument(BaseModel):
    """A row identity as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    token: str
    scene: str
    timestamp_us: _Int64
    global_from_ego: tuple[_Row4, _Row4, _Row4, _Row4]
    prev: _Int64
    next: _Int64
    view: _Int64
    bev_augment: tuple[_Row3, _Row3]

    @property
    def row(self) -> RowIdentity:
        pose = np.array(self.global_from_ego, np.float64)
        matrix = np.array(self.bev_augment, np.float32)
        return RowIdentity(**(dict(self) | {"global_from_ego": pose, "bev_augment": matrix}))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a dump is going to write.

    Attributes:
        fingerprint: For what.
        rows: Identities in order.
    """

    fingerprint: Fingerprint
    rows: tuple[RowIdentity, ...]

    @cached_property
    def hash(self) -> str:
        """sha256 of the plan's file."""
        return hashlib.sha256(self.encode()).hexdigest()

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
            RowValueError: Its rows cannot be told apart.
        """
        document = read_sealed_json(root / PLAN)
        try:
            plan = cls(
                fingerprint=Fingerprint.model_validate(document["fingerprint"]),
                rows=tuple(_RowDocument.model_validate(row).row for row in document["rows"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedStoreError(f"{root / PLAN} is not a plan: {error!s:.500}") from error
        check_identities(plan.rows, plan.fingerprint.views)
        return plan

    def record(self, root: Path, part: range) -> PartRecord | None:
        """The record of a part if the part is whole: record valid and every shard there."""
        try:
            record = PartRecord.load(record_path(root, part))
        except DamagedStoreError:
            return None
        if not record.fits(self.hash, self.fingerprint, len(part)):
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
