"""Where a store may lie: a folder, or a folder behind a URL; both give and take whole files."""

import hashlib
import os
from pathlib import Path

from store.catalogue_file import PREFIX
from store.errors import CatalogueError, StoreWriteError
from store.files import FileEntry, open_plain, publish, read_bounded
from store.remote import Remote, is_url


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
        with os.fdopen(open_plain(path), "rb") as file:
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
