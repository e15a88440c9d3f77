"""Whether a cache serves a student; asked once at start-up, not found out at step 900."""

from collections.abc import Iterable
from typing import Any

from pydantic import JsonValue

from frames.augment import BevAugmentConfig
from frames.cell_masks import anchors_of
from frames.grid import BEVGrid
from store.differences import differences
from store.errors import FingerprintError, MissingTargetError
from store.plan import unmet
from store.reader import Cache
from store.schema import Need


def require_match(
    cache: Cache,
    *,
    needs: Iterable[Need],
    tokens: Iterable[str],
    grid: BEVGrid,
    classes: tuple[str, ...],
    ground_truth_filter: dict[str, JsonValue],
) -> None:
    """Refuse a cache that does not fit the student.

    Args:
        cache: The cache.
        needs: What the methods read.
        tokens: Frames the student will ask for, in any order.
        grid: The student's BEV grid.
        classes: The student's classes, in order.
        ground_truth_filter: What decides which annotations count for the student.

    Raises:
        FingerprintError: Grid, classes, ground truth or frames differ; lists all differences.
        MissingTargetError: The cache lacks something the methods read.
    """
    made_for = cache.fingerprint
    found: dict[str, Any] = {
        "grid": made_for.grid.model_dump(mode="json"),
        "classes": list(made_for.classes),
        "dataset": {"ground_truth_filter": made_for.dataset.ground_truth_filter},
    }
    expected: dict[str, Any] = {
        "grid": grid.model_dump(mode="json"),
        "classes": list(classes),
        "dataset": {"ground_truth_filter": ground_truth_filter},
    }
    needs = list(needs)
    theirs, ours = anchors_of(made_for.masks), anchors_of(need.mask for need in needs)
    if theirs is not None and ours is not None:
        found["anchors"] = theirs.model_dump(mode="json")
        expected["anchors"] = ours.model_dump(mode="json")
    mismatches = list(differences(found, expected))
    absent = [token for token in tokens if token not in cache]
    if absent:
        mismatches.append(
            f"dataset tokens: {len(absent)} frames are not in the cache, for example {absent[0]!r} "
            f"(it holds {made_for.dataset.name} {made_for.dataset.version} "
            f"{made_for.dataset.split}, {len(cache)} rows)"
        )
    if mismatches:
        raise FingerprintError(
            cache.name,
            mismatches,
            "Change the student's configuration, or dump a cache for it.",
        )
    if missing := unmet(needs, made_for.arrays, made_for.masks):
        held = [f"{spec.name} at {spec.places}" for spec in made_for.arrays]
        raise MissingTargetError(cache.name, missing, held)


def require_views(cache: Cache, bev_augment: BevAugmentConfig) -> None:
    """Refuse a cache whose stored views are not what the student is augmented by.

    A student of such a cache replays its matrices, so its own ranges are the ones they were drawn
    from, or off.

    Raises:
        FingerprintError: They are others; lists all differences.
    """
    augmentation = cache.fingerprint.augmentation
    if augmentation == "canonical" or bev_augment == BevAugmentConfig():
        return
    found = {"augmentation": {"ranges": augmentation.ranges.model_dump(mode="json")}}
    expected = {"augmentation": {"ranges": bev_augment.model_dump(mode="json")}}
    if mismatches := list(differences(found, expected)):
        raise FingerprintError(
            cache.name,
            mismatches,
            "A student replays the views that the cache stores: give its bev_augment the cache's "
            "ranges or leave the table out, or dump another cache.",
        )
