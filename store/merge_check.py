"""Why stores cannot be merged, one readable line for each difference from the first of them."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import product
from typing import Any

import numpy as np

from store.differences import differences
from store.reader import Cache
from store.rows import RowIdentity
from store.schema import GT_LABELS, GT_VALUES

# Of each kind of fault, so many rows are named.
NAMED = 3
# Two stores that are merged may differ in nothing else that decides what they hold.
FREE = {"arrays", "masks", "code_revision", "sources", "label_encoder"}
FREE_OF_DATASET = {"split", "token_hash"}


def fingerprint_faults(caches: Sequence[Cache]) -> Iterator[str]:
    """Differences in teacher, data, ground truth, grid, classes, coverage and augmentation."""
    first, *others = caches
    encoder = first.fingerprint.label_encoder
    for cache in others:
        yield from _lines(cache, _decisive(cache), _decisive(first))
        # Only those with label maps have one.
        own = cache.fingerprint.label_encoder
        encoder = encoder or own
        yield from _lines(cache, {"label_encoder": own or encoder}, {"label_encoder": encoder})


def row_faults(caches: Sequence[Cache]) -> Iterator[str]:
    """Why stores cannot be joined row after row: other arrays, or rows that several hold."""
    first, *others = caches
    seen = dict.fromkeys(first.tokens, first.name)
    for cache in others:
        yield from _lines(
            cache,
            {"arrays": _arrays(cache), "masks": _masks(cache)},
            {"arrays": _arrays(first), "masks": _masks(first)},
        )
        shared = [token for token in cache.tokens if token in seen]
        if shared:
            yield (
                f"{cache.name}: {len(shared)} of its {len(cache)} frames are in "
                f"{seen[shared[0]]} too ({_some(shared)}); expected none, or the same frames in "
                "the same order"
            )
        seen |= dict.fromkeys(cache.tokens, cache.name)


def array_faults(caches: Sequence[Cache], rows: Sequence[list[RowIdentity]]) -> Iterator[str]:
    """Why targets of the same rows cannot be joined.

    An array that several hold must be the same in all; so must the ground truth, and the masks of
    those that have any. Each store must bring an array of its own.
    """
    first, *others = caches
    held, masks = _arrays(first), _masks(first)
    for cache, own in zip(others, rows[1:], strict=True):
        brought = _arrays(cache)
        if brought.keys() <= held.keys():
            yield f"{cache.name}: brings no array that the stores before it lack"
        common = brought.keys() & held.keys()
        masks = masks or _masks(cache)
        yield from _lines(
            cache,
            {"arrays": {name: brought[name] for name in common}, "masks": _masks(cache) or masks},
            {"arrays": {name: held[name] for name in common}, "masks": masks},
        )
        moved = [b.token for a, b in zip(rows[0], own, strict=True) if not _same_row(a, b)]
        if moved:
            yield f"{cache.name}: other scenes, times, poses or neighbours ({_some(moved)})"
        held |= brought
    yield from _digest_faults(caches)


def unequal(cache: Cache, array: str, tokens: Sequence[str]) -> str:
    """That a store says something else of an array than a store before it."""
    what = "ground truth" if array in (GT_VALUES.name, GT_LABELS.name) else "values"
    return f"{cache.name}: {array}: other {what} in {len(tokens)} rows ({_some(tokens)})"


def _digest_faults(caches: Sequence[Cache]) -> Iterator[str]:
    different: defaultdict[tuple[Cache, str], list[str]] = defaultdict(list)
    for token, view in product(caches[0].tokens, range(caches[0].views)):
        known: dict[str, int] = {}
        for cache in caches:
            digests = cache.digests(token, view)
            for name in digests.keys() & known.keys():
                if digests[name] != known[name]:
                    different[cache, name].append(token)
            known = digests | known
    for (cache, name), tokens in sorted(different.items(), key=lambda item: item[0][1]):
        yield unequal(cache, name, tokens)


def _decisive(cache: Cache) -> dict[str, Any]:
    document = cache.fingerprint.model_dump(mode="json", exclude=FREE)
    for name in FREE_OF_DATASET:
        del document["dataset"][name]
    return document


def _arrays(cache: Cache) -> dict[str, Any]:
    return {spec.name: spec.model_dump(mode="json") for spec in cache.fingerprint.arrays}


def _masks(cache: Cache) -> list[Any]:
    return [mask.model_dump(mode="json") for mask in cache.fingerprint.masks]


def _lines(cache: Cache, found: Any, expected: Any) -> Iterator[str]:
    return (f"{cache.name}: {line}" for line in differences(found, expected))


def _same_row(a: RowIdentity, b: RowIdentity) -> bool:
    return all(
        np.array_equal(getattr(a, field.name), getattr(b, field.name)) for field in fields(a)
    )


def _some(tokens: Sequence[str]) -> str:
    more = ", ..." if len(tokens) > NAMED else ""
    return ", ".join(map(repr, tokens[:NAMED])) + more
