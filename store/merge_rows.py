"""The rows of several stores, one store after the other, as one dump of them would link them."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median_low

from store.rows import RowIdentity


def joined_rows(stores: Iterable[Sequence[RowIdentity]]) -> list[RowIdentity]:
    """The rows of all, linked where a scene was cut between two stores.

    A store does not know the tokens of neighbours that it lacks, so times decide; of two rows that
    one store holds, that store has decided.
    """
    rows: list[RowIdentity] = []
    store_of: list[int] = []
    for store, own in enumerate(stores):
        base = len(rows)
        for row in own:
            before, after = (base + r if r >= 0 else -1 for r in (row.prev, row.next))
            rows.append(replace(row, prev=before, next=after))
        store_of += [store] * len(own)
    for before, after in _steps_of_a_scene(rows):
        unlinked = rows[before].next < 0 and rows[after].prev < 0
        if unlinked and store_of[before] != store_of[after]:
            rows[before] = replace(rows[before], next=after)
            rows[after] = replace(rows[after], prev=before)
    return rows


def _steps_of_a_scene(rows: Sequence[RowIdentity]) -> list[tuple[int, int]]:
    """Rows next to each other in time, about as far apart as their scene's linked ones.

    So no frame is missing between: a step of nuScenes-mini takes 0.8 to 1.2 times its scene's
    median, two take at least 1.6.
    """
    scenes: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
    for at in sorted(range(len(rows)), key=lambda at: rows[at].timestamp_us):
        scenes[rows[at].scene, rows[at].view].append(at)
    found = []
    for scene in scenes.values():
        linked = [_gap(rows, at, rows[at].next) for at in scene if rows[at].next >= 0]
        usual = median_low(linked) if linked else 0
        found += [(a, b) for a, b in pairwise(scene) if abs(_gap(rows, a, b) - usual) < usual / 2]
    return found


def _gap(rows: Sequence[RowIdentity], before: int, after: int) -> int:
    return rows[after].timestamp_us - rows[before].timestamp_us
