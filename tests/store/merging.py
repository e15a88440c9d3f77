"""Stores to merge: pieces of the one that ``building.build`` makes, by rows or by targets."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from store.choices import Coverage
from store.fingerprint import DrawnViews, Fingerprint
from store.rows import RowIdentity, RowValues
from store.writer import StoreWriter
from tests.store.building import fingerprint, identities, usual_values

Change = Callable[[Fingerprint], Fingerprint]


def piece(
    path: Path,
    rows: range,
    coverage: Coverage = Coverage.DENSE,
    *,
    arrays: tuple[str, ...] | None = None,
    change: Change = lambda made_for: made_for,
    alter: Callable[[RowValues], Any] = lambda _values: None,
    drawn: DrawnViews | None = None,
) -> Path:
    """A sealed store of some rows of one scene, and of some arrays: by the names they begin with.

    Args:
        path: Its folder.
        rows: Of the scene, whose frames know no neighbours outside them.
        coverage: Whole maps or places.
        arrays: None for all.
        change: To its fingerprint.
        alter: To each row's values, in place.
        drawn: Views of each frame; None for the frame as it is.
    """
    identity = [_within(row, rows) for row in identities(rows.stop)[rows.start :]]
    whole = fingerprint(identity, coverage)
    if drawn:
        whole = whole.model_copy(update={"augmentation": drawn})
        identity = [_view(row, view, drawn) for row in identity for view in range(drawn.views)]
    kept = tuple(s for s in whole.arrays if arrays is None or s.name.startswith(arrays))
    made_for = change(whole.model_copy(update={"arrays": kept}))
    writer = StoreWriter.open(path, made_for, identity)
    for part in writer.pending_parts:
        seeds = [(rows[row // whole.views], row % whole.views) for row in part]
        writer.write_part(part, [_values(whole, made_for, seed, alter) for seed in seeds])
    writer.finalise()
    return path


def _within(row: RowIdentity, rows: range) -> RowIdentity:
    inside = [at - rows.start if at in rows else -1 for at in (row.prev, row.next)]
    return replace(row, prev=inside[0], next=inside[1])


def _view(row: RowIdentity, view: int, drawn: DrawnViews) -> RowIdentity:
    near = [drawn.views * at + view if at >= 0 else -1 for at in (row.prev, row.next)]
    matrix = drawn.draw(row.token, view).matrix.numpy()
    return replace(row, prev=near[0], next=near[1], view=view, bev_augment=matrix)


def _values(
    whole: Fingerprint,
    made_for: Fingerprint,
    seed: tuple[int, int],
    alter: Callable[[RowValues], Any],
) -> RowValues:
    row, view = seed
    values = usual_values(whole, row)
    values.gt.values[:, 0] += view
    kept = {spec.name: values.arrays[spec.name] for spec in made_for.given}
    values = replace(values, arrays=kept)
    alter(values)
    return values


def dataset(made_for: Fingerprint, **changes: Any) -> Fingerprint:
    """The same with another dataset identity."""
    return made_for.model_copy(update={"dataset": made_for.dataset.model_copy(update=changes)})
