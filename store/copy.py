"""Copy a finished store from any location to another: resumable, verified, the manifest last."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from store.errors import DamagedStoreError, StoreExistsError, StoreWriteError
from store.files import MAX_DOCUMENT_BYTES, TEMPORARY, FileEntry, make_folder, only_one
from store.guard import refuse_links
from store.layout import MANIFEST
from store.location import LocalFolder, Location, get_right, locate
from store.manifest import Manifest
from store.remote import CONNECTIONS
from store.verify import finished_store

LOCK = "copy.lock"


def copy_store(
    source: Path | str,
    destination: Path | str,
    on_file: Callable[[int], None] = lambda _bytes: None,
) -> Manifest:
    """Copy a store; call again after an interruption, what has arrived whole is kept.

    Args:
        source: Folder, URL or ``team:NAME`` of a finished store.
        destination: Folder or writable URL: empty, a part of this copy, or the same store.
        on_file: Told the bytes of each file that has arrived.

    Returns:
        The store's manifest.

    Raises:
        StoreExistsError: The destination holds another store, or another copy is under way there.
        UnsafeStoreError: A link in the destination may lead elsewhere.
        DamagedStoreError: A file of the source is not as it was written.
        CacheError: A location cannot be read or written.
    """
    there, manifest = finished_store(source)
    here = locate(destination)
    _check_destination(here, manifest)
    with _alone(here):
        # Another copy may have been at work a moment ago.
        _check_destination(here, manifest)
        _copy_files(there, here, manifest, on_file)
        here.put(MANIFEST, manifest.encode())
    return manifest


def _copy_files(
    there: Location, here: Location, manifest: Manifest, on_file: Callable[[int], None]
) -> None:
    def copy(key: str) -> None:
        entry = manifest.files[key]
        if not _arrived(here, key, entry):
            data = get_right(there, key, max(entry.size, MAX_DOCUMENT_BYTES), entry.fits)
            if data is None or not entry.fits(data):
                raise DamagedStoreError(f"{there.name}/{key} is not as it was written; not copied")
            here.put(key, data)
        on_file(entry.size)

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(copy, sorted(manifest.files)))


@contextmanager
def _alone(destination: Location) -> Iterator[None]:
    """Keep a second copy out of a local folder: both would write the same temporary files."""
    if not isinstance(destination, LocalFolder):
        yield
        return
    lock = destination.path / LOCK
    try:
        make_folder(destination.path)
        with only_one(lock, wait=False):
            yield
            lock.unlink(missing_ok=True)
    except BlockingIOError as error:
        raise StoreExistsError(
            f"another process is copying into {destination.name} right now; wait until it is "
            "done, then run the same command again"
        ) from error
    except OSError as error:
        raise StoreWriteError(f"cannot write {destination.name}: {error.strerror}") from error


def _check_destination(destination: Location, manifest: Manifest) -> None:
    if isinstance(destination, LocalFolder):
        refuse_links(destination.path, [LOCK, MANIFEST, *manifest.files])
    expected_bytes = manifest.encode()
    found = get_right(destination, MANIFEST, MAX_DOCUMENT_BYTES, expected_bytes.__eq__)
    if found is not None and found != expected_bytes:
        raise StoreExistsError(
            f"{destination.name} holds another store, and a store is never changed; "
            "choose an empty place"
        )
    if found is not None or not isinstance(destination, LocalFolder):
        return
    expected = {LOCK, *(Path(key).parts[0] for key in manifest.files)}
    # What a killed copy leaves half written at the top.
    expected |= {f"{name}{TEMPORARY}" for name in (MANIFEST, "zarr.json")}
    entries = destination.path.iterdir() if destination.path.is_dir() else []
    foreign = sorted({entry.name for entry in entries} - expected)
    if foreign or destination.path.is_file():
        raise StoreExistsError(
            f"{destination.name} holds something that is no copy of this store ({foreign[:3]}); "
            "choose an empty folder"
        )


def _arrived(destination: Location, key: str, entry: FileEntry) -> bool:
    """Whether an earlier run has brought the file; it is read and hashed, not believed."""
    data = get_right(destination, key, max(entry.size, MAX_DOCUMENT_BYTES), entry.fits)
    return data is not None and entry.fits(data)
