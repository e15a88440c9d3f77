"""Copying, merging and checking caches, with progress."""

from collections.abc import Sequence

from commands.amounts import human_bytes
from commands.progress import announce_room, console, progress_bar
from runs.errors import RunInterruptedError
from store.copy import copy_store
from store.errors import StoreWriteError
from store.location import LocalFolder, locate
from store.manifest import Manifest
from store.merge import plan_merge
from store.verify import finished_store, verify


def verify_store(store: str) -> list[str]:
    """What is wrong with a store."""
    _, manifest = finished_store(store)
    with progress_bar(f"verify · {store}", len(manifest.files)) as advance:
        faults = verify(store, on_file=lambda _bytes: advance(1))
    state = f"faults in {len(faults)}" if faults else "whole"
    console.print(f"{store}: {state}; {_describe(manifest)}")
    return faults


def copy(source: str, destination: str) -> None:
    """Copy a store, saying beforehand what it weighs.

    Raises:
        CacheError: A location cannot be read or written.
        RunInterruptedError: Ctrl-C; what has arrived stays.
    """
    place = locate(destination)
    _, manifest = finished_store(source)
    console.print(f"{source}: {_describe(manifest)}")
    if isinstance(place, LocalFolder):
        announce_room(place.path, manifest.size)
    try:
        with progress_bar(f"copy · {destination}", len(manifest.files)) as advance:
            copy_store(source, destination, on_file=lambda _bytes: advance(1))
    except KeyboardInterrupt:
        raise RunInterruptedError(
            f"interrupted; what {destination} has stays: the same command goes on"
        ) from None
    console.print(f"{destination} holds all of it; every file there was read and compared")


def merge(sources: Sequence[str], out: str) -> None:
    """Merge stores into a new one, saying beforehand what it weighs.

    Raises:
        StoreWriteError: The new store is to lie behind a URL.
        FingerprintError: The stores do not fit.
        CacheError: One cannot be read, or the new one not be written.
        RunInterruptedError: Ctrl-C; what is committed stays.
    """
    place = locate(out)
    if not isinstance(place, LocalFolder):
        raise StoreWriteError(f"merge writes to a folder, found {out}: copy the result there")
    planned = plan_merge(sources)
    console.print(
        f"merging the {planned.kind} of {len(sources)} stores into {out}: {len(planned.rows)} rows "
        f"of {len(planned.fingerprint.arrays)} arrays, about {human_bytes(planned.size)}"
    )
    announce_room(place.path, planned.size)
    try:
        with progress_bar(f"merge · {out}", len(planned.rows)) as advance:
            planned.write(place.path, advance)
    except KeyboardInterrupt:
        raise RunInterruptedError(
            f"interrupted; what {out} holds stays: the same command goes on"
        ) from None
    console.print(f"sealed {out}: {_describe(Manifest.load(place.path))}")


def _describe(manifest: Manifest) -> str:
    return (
        f"{manifest.counts.rows} rows, {human_bytes(manifest.size)} in {len(manifest.files)} "
        f"files, manifest {manifest.root_hash[:12]}"
    )
