"""Where a store may lie: a folder, or a folder behind a URL; both give and take whole files."""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from store.catalogue_file import PREFIX
from store.errors import (
    AlteredFileError,
    CatalogueError,
    DamagedStoreError,
    NotACacheError,
    RemoteError,
    StoreWriteError,
    UnsafeStoreError,
)
from store.files import FileEntry, plain_file, publish, read_bounded
from store.layout import MANIFEST
from store.manifest import MAX_MANIFEST_BYTES, Manifest
from store.remote import ATTEMPTS, RETRY_TIMEOUT, Remote, is_url

T = TypeVar("T")


class LocalFolder:
    """A folder on a disk of this machine.

    Attributes:
        name: Its path.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)

    def get(self, key: str, limit: int) -> bytes | None:
        """A file's bytes; None if it is not there.

        Raises:
            UnsafeStoreError: It has more than ``limit`` bytes.
            DamagedStoreError: It cannot be read.
        """
        path = self.path / key
        return read_bounded(path, limit) if path.exists() else None

    def entry(self, key: str) -> FileEntry | None:
        """What a manifest would say of a file; None if it is not there. Never in memory at once.

        Raises:
            UnsafeStoreError: It is no plain file.
            DamagedStoreError: It cannot be read.
        """
        path = self.path / key
        if not path.exists():
            return None
        with plain_file(path) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            return FileEntry(size=os.fstat(file.fileno()).st_size, sha256=found)

    def put(self, key: str, data: bytes) -> None:
        """Write a file, whole or not at all; it is synced and read back.

        Raises:
            StoreWriteError: The disk refused.
        """
        try:
            publish(self.path / key, data)
        except OSError as error:
            raise StoreWriteError(
                f"cannot write {self.path / key}: {error.strerror}. What has been written stays; "
                "once the disk takes writes again, run the same command"
            ) from error


Location = LocalFolder | Remote


def locate(location: Path | str) -> Location:
    """The location that a path or a URL names.

    Raises:
        RemoteError: The URL cannot be used.
        CatalogueError: It is a name; those are looked up by ``catalogue.resolve``, for reading.
    """
    if isinstance(location, str) and location.startswith(PREFIX):
        raise CatalogueError(f"{location} is the name of a store to read; give a folder or a URL")
    return Remote(str(location)) if is_url(str(location)) else LocalFolder(Path(location))


def get_right(location: Location, key: str, limit: int, parse: Callable[[bytes], T]) -> T | None:
    """What a file says; None if it is not there.

    A service is asked up to ``ATTEMPTS`` times for bytes that are right, as they may be whole where
    they lie.

    Args:
        location: Where it is.
        key: Its path.
        limit: How many bytes it may have.
        parse: Makes of its bytes what they say; raises ``DamagedStoreError`` if they are not right.

    Raises:
        CacheError: As ``get`` and ``parse`` raise.
    """
    give_up = time.monotonic() + RETRY_TIMEOUT.total_seconds()
    for _ in range(ATTEMPTS - 1 if isinstance(location, Remote) else 0):
        try:
            return _parsed(location.get(key, limit), parse)
        except (UnsafeStoreError, RemoteError, DamagedStoreError):
            # Also a wrong Content-Length, or a line cut in a 404's body: obstore retries neither.
            if time.monotonic() > give_up:
                raise
    return _parsed(location.get(key, limit), parse)


def _parsed(data: bytes | None, parse: Callable[[bytes], T]) -> T | None:
    return None if data is None else parse(data)


def get_file(location: Location, key: str, entry: FileEntry) -> bytes | None:
    """A file's bytes, which are those of the entry; None if it is not there.

    Raises:
        UnsafeStoreError: It has more bytes.
        AlteredFileError: It has as many, but other ones.
        DamagedStoreError: It has fewer, or cannot be read.
        RemoteError: The service does not give it.
    """

    def checked(data: bytes) -> bytes:
        name = f"{location.name}/{key}"
        if len(data) != entry.size:
            raise DamagedStoreError(f"{name} has {len(data)} bytes, expected {entry.size}")
        if not entry.fits(data):
            raise AlteredFileError(f"{name} is not as it was written; copy the store there again")
        return data

    return get_right(location, key, entry.size, checked)


def manifest_of(location: Location) -> Manifest:
    """The manifest of a finished store.

    Raises:
        NotACacheError: There is none.
        CacheError: It is not as it was written, or cannot be read.
    """
    name = f"{location.name}/{MANIFEST}"
    found = get_right(
        location, MANIFEST, MAX_MANIFEST_BYTES, lambda data: Manifest.parse(data, name)
    )
    if found is None:
        raise NotACacheError(
            f"{location.name} holds no {MANIFEST}: it holds no store, or an unfinished one"
        )
    return found
