"""Every byte of a finished store, held against its manifest."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from store.catalogue import resolve
from store.errors import AlteredFileError, CacheError, DamagedStoreError, UnsafeStoreError
from store.files import FileEntry
from store.guard import refuse_links
from store.layout import ROWS_PER_PART
from store.location import LocalFolder, Location, get_file, locate, manifest_of
from store.manifest import Manifest
from store.reader import open_cache
from store.remote import CONNECTIONS

_ALTERED = "is not as it was written"


def finished_store(place: Path | str) -> tuple[Location, Manifest]:
    """Where a finished store lies, and its manifest.

    Args:
        place: Folder, URL or ``team:NAME``.

    Raises:
        NotACacheError: There is none.
        CatalogueError: The name is not listed, or names another store than the one found.
        CacheError: The manifest is not as it was written, or cannot be read.
    """
    named = resolve(place)
    location = locate(named.location)
    manifest = manifest_of(location)
    named.check(manifest.root_hash)
    return location, manifest


def verify(place: Path | str, on_file: Callable[[int], None] = lambda _bytes: None) -> list[str]:
    """What is wrong with a finished store; [] if nothing is.

    Every file is read and hashed. A local store's rows are then decoded and held against their
    digests.

    Args:
        place: Folder, URL or ``team:NAME``.
        on_file: Told the bytes of each file that has been read.

    Raises:
        CacheError: There is no manifest to check against, or the service does not answer.
    """
    location, manifest = finished_store(place)
    if isinstance(location, LocalFolder):
        refuse_links(location.path, manifest.files)

    def check(key: str) -> str | None:
        found = _fault(location, key, manifest.files[key])
        on_file(manifest.files[key].size)
        return found and f"{key} {found}{_rows_of(key, manifest)}"

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        faults = [fault for fault in pool.map(check, sorted(manifest.files)) if fault]
    if not faults and isinstance(location, LocalFolder):
        faults = list(_damaged_rows(location.path))
    return faults


def _fault(location: Location, key: str, entry: FileEntry) -> str | None:
    try:
        if not isinstance(location, LocalFolder):
            return None if get_file(location, key, entry) is not None else "is missing"
        found = location.entry(key)
    except UnsafeStoreError:
        return f"has more than {entry.size} bytes"
    except AlteredFileError:
        return _ALTERED
    except DamagedStoreError as error:
        return f"is damaged: {error}"
    if found is None:
        return "is missing"
    if found.size != entry.size:
        return f"has {found.size} bytes, expected {entry.size}"
    return None if found == entry else _ALTERED


def _rows_of(key: str, manifest: Manifest) -> str:
    """Which rows a map's shard holds; "" for other files."""
    for layout in manifest.maps:
        if key.startswith(f"{layout.key}/c/"):
            first = int(key.removeprefix(f"{layout.key}/c/").split("/")[0]) * ROWS_PER_PART
            return f" (rows {first} to {min(first + ROWS_PER_PART, manifest.counts.rows) - 1})"
    return ""


def _damaged_rows(path: Path) -> Iterator[str]:
    cache = open_cache(path)
    for token, view in product(cache.tokens, range(cache.views)):
        try:
            cache.row(token, view)
        except CacheError as error:
            yield str(error)
