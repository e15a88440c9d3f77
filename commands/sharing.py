"""Copying and checking caches, with progress."""

from commands.progress import console, progress_bar
from commands.tables import human_bytes
from store.copy import copy_store
from store.location import locate
from store.manifest import Manifest
from store.verify import manifest_of, verify


def verify_store(store: str) -> list[str]:
    """What is wrong with a store."""
    manifest = manifest_of(locate(store))
    with progress_bar(f"verify · {store}", len(manifest.files)) as advance:
        faults = verify(store, on_file=lambda _bytes: advance(1))
    state = f"{len(faults)} faults" if faults else "whole"
    console.print(f"{store}: {state}; {_describe(manifest)}")
    return faults


def copy(source: str, destination: str) -> None:
    """Copy a store, saying beforehand what it weighs."""
    manifest = manifest_of(locate(source))
    console.print(f"{source}: {_describe(manifest)}")
    with progress_bar(f"copy · {destination}", len(manifest.files)) as advance:
        copy_store(source, destination, on_file=lambda _bytes: advance(1))
    console.print(f"copied to {destination}; every file was read back")


def _describe(manifest: Manifest) -> str:
    total = sum(entry.size for entry in manifest.files.values())
    return (
        f"{manifest.counts.rows} rows, {human_bytes(total)} in {len(manifest.files)} files, "
        f"manifest {manifest.root_hash[:12]}"
    )
