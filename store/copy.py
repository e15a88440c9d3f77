"""Copy a finished store from any location to another: resumable, verified, the manifest last."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from store.errors import (
    DamagedStoreError,
    RemoteError,
    StoreExistsError,
    StoreWriteError,
    UnsafeStoreError,
)
from store.files import TEMPORARY, FileEntry, make_folder, only_one
from store.guard import refuse_links
from store.layout import MANIFEST
from store.location import LocalFolder, Location, get_file, locate
from store.manifest import Manifest
from store.remote import ATTEMPTS, CONNECTIONS, Remote
from store.verify import finished_store

LOCK = "copy.lock"


def copy_store(
    source: Path | str,
    destination: Path | str,
    on_file: Callable[[int], None] = lambda _bytes: None,
) -> Manifest:
    """Copy a store; call again after an interruption, what has arrived whole is kept.

    At a URL no file of an unfinished copy is ever replaced by another one, and the manifest comes
    last: whatever else is copied there meanwhile, the store of a copy that succeeds is whole.

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
        finished = _check_destination(here, manifest)
        put = here.put if finished or isinstance(here, LocalFolder) else partial(_put_new, here)
        _copy_files(there, here, put, manifest, on_file)
        if not finished:
            put(MANIFEST, manifest.encode())
    return manifest


def _copy_files(
    there: Location,
    here: Location,
    put: Callable[[str, bytes], None],
    manifest: Manifest,
    on_file: Callable[[int], None],
) -> None:
    def copy(key: str) -> None:
        entry = manifest.files[key]
        if not _arrived(here, key, entry):
            data = get_file(there, key, entry)
            if data is None:
                raise DamagedStoreError(f"{there.name}/{key} is missing; not copied")
            put(key, data)
        on_file(entry.size)

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(copy, sorted(manifest.files)))


def _put_new(here: Remote, key: str, data: bytes) -> None:
    """Write a file where there is none: no copy ever spoils what another one has written.

    Raises:
        StoreExistsError: There is another file.
        RemoteError: The service does not take it, or is read-only.
    """
    created = _created(here, key, data)
    if _arrived(here, key, FileEntry.of(data)):
        return
    if not created:
        raise StoreExistsError(
            f"{here.name}/{key} is a file of another store, or another copy is under way there; "
            "choose an empty place"
        )
    # It was altered on its way.
    here.put(key, data)


def _created(here: Remote, key: str, data: bytes) -> bool:
    # obstore does not repeat such a request if the line was cut.
    for _ in range(ATTEMPTS - 1):
        with suppress(RemoteError):
            return here.put_version(key, data, {})
    return here.put_version(key, data, {})


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


def _check_destination(destination: Location, manifest: Manifest) -> bool:
    """Whether the store has been finished there before."""
    if isinstance(destination, LocalFolder):
        refuse_links(destination.path, [LOCK, MANIFEST, *manifest.files])
    try:
        found = get_file(destination, MANIFEST, FileEntry.of(manifest.encode()))
    except (DamagedStoreError, UnsafeStoreError) as error:
        raise StoreExistsError(
            f"{destination.name} holds another store, and a store is never changed; "
            "choose an empty place"
        ) from error
    if found is not None or not isinstance(destination, LocalFolder):
        return found is not None
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
    return False


def _arrived(destination: Location, key: str, entry: FileEntry) -> bool:
    """Whether an earlier run has brought the file; it is read and hashed, not believed."""
    try:
        return get_file(destination, key, entry) is not None
    except (DamagedStoreError, UnsafeStoreError):
        return False
