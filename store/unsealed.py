"""The committed parts of an unfinished store, readable before it is sealed."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from frames.augment import BevAugment
from store.dump_plan import Plan
from store.errors import DamagedStoreError
from store.guard import check_metadata, refuse_links
from store.layout import ROWS_PER_PART, store_metadata
from store.part import PartRecord, record_path
from store.rows import RowIdentity
from store.schema import ArraySpec, Places


class UnsealedRows:
    """The small targets of the committed parts.

    Attributes:
        row_of: Row of view 0 of each frame whose views are all committed, in row order.
        parts_done: Committed parts.
        parts_total: Parts of the plan.
        arrays: The ragged ones, by name.
    """

    def __init__(self, root: Path, plan: Plan) -> None:
        self._root = root
        self._plan = plan
        records = [str(record_path(Path(), part)) for part in plan.parts]
        shards = [key for layout in plan.maps for key in layout.chunk_keys]
        refuse_links(root, [*store_metadata(plan.maps), *records, *shards])
        committed = [part for part in plan.parts if plan.record(root, part) is not None]
        # A dump that is killed right after its plan has none yet, nor anything to read.
        if committed:
            check_metadata(root, plan.maps)
        self.parts_done = len(committed)
        self.parts_total = len(plan.parts)
        rows = {row for part in committed for row in part}
        views = plan.fingerprint.views
        self.row_of = {
            plan.rows[row].token: row
            for row in range(0, len(plan.rows), views)
            if rows.issuperset(range(row, row + views))
        }
        self.arrays = {
            spec.name: RecordedArray(self, spec)
            for spec in plan.fingerprint.stored
            if spec.places is not Places.MAP
        }
        self._last: tuple[int, PartRecord] | None = None

    def identities(self) -> list[RowIdentity]:
        """Who the committed rows are, in order."""
        views = range(self._plan.fingerprint.views)
        return [self._plan.rows[row + view] for row in self.row_of.values() for view in views]

    def digests(self, row: int) -> list[int]:
        """crc32c of the row's decoded bytes, in the order of ``Fingerprint.stored``."""
        digests: list[int] = self.record(row).digests[row % ROWS_PER_PART].tolist()
        return digests

    def augment(self, row: int) -> BevAugment:
        """How the teacher saw the row's frame."""
        return self._plan.rows[row].augment

    def forget_files(self) -> None:
        """Nothing is kept open."""

    def record(self, row: int) -> PartRecord:
        """The record of the row's part.

        Raises:
            DamagedStoreError: It is gone.
        """
        index = row // ROWS_PER_PART
        # Read once: another thread may replace it.
        last = self._last
        if last is not None and last[0] == index:
            return last[1]
        record = self._plan.record(self._root, self._plan.parts[index])
        if record is None:
            raise DamagedStoreError(
                f"part {index} of {self._root} was committed and is gone; resume the dump"
            )
        self._last = (index, record)
        return record


class RecordedArray:
    """One ragged array, read from the part records.

    Args:
        rows: Whose array it is.
        spec: Which.
    """

    def __init__(self, rows: UnsealedRows, spec: ArraySpec) -> None:
        self._rows = rows
        self._spec = spec

    def read(self, row: int) -> npt.NDArray[Any]:
        """A copy of the row's values.

        Raises:
            DamagedStoreError: Their record is gone.
        """
        record = self._rows.record(row)
        counts = record.counts[self._spec.places.counted_as]
        end = int(np.cumsum(counts)[row % ROWS_PER_PART])
        count = int(counts[row % ROWS_PER_PART])
        return record.values[self._spec.name][end - count : end].copy()

    def files(self, _row: int) -> list[str]:
        """None to fetch: an unfinished store is a local one."""
        return []
