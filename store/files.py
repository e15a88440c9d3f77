"""Files that are either whole or absent, and JSON that knows its own hash."""

import errno
import fcntl
import hashlib
import json
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, NonNegativeInt

from store.errors import DamagedStoreError, FormatVersionError, UnsafeStoreError
from store.schema import FORMAT_VERSION, Sha256

TEMPORARY = ".tmp"
HASH_KEY = "sha256"
# A million rows need half of it.
MAX_DOCUMENT_BYTES = 1 << 30
_ODD = "{} is a link, a pipe or a device; a store holds plain files and folders only"


class FileEntry(BaseModel):
    """A file as it was written.

    Attributes:
        size: Bytes.
        sha256: Of these bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: NonNegativeInt
    sha256: Sha256

    @classmethod
    def of(cls, data: bytes) -> "FileEntry":
        """The entry of a file that holds these bytes."""
        return cls(size=len(data), sha256=hashlib.sha256(data).hexdigest())

    def fits(self, data: bytes) -> bool:
        """Whether a file with these bytes is this one."""
        return FileEntry.of(data) == self


def publish(path: Path, data: bytes) -> FileEntry:
    """Write a file so that a reader, or a machine that lost power, sees all of it or nothing.

    The temporary name is always the same, so that a killed writer leaves nothing the next one
    does not overwrite. Of two writers at once the caller makes one wait: see ``only_one``.

    Raises:
        OSError: The disk refused; nothing new is left behind.
        DamagedStoreError: The disk gave back other bytes.
    """
    make_folder(path.parent)
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with _new_file(temporary) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    if path.read_bytes() != data:
        raise DamagedStoreError(f"{path} reads back differently from what was written: bad disk?")
    return FileEntry.of(data)


@contextmanager
def only_one(lock: Path, *, wait: bool = True) -> Iterator[None]:
    """Let in one at a time, of all threads and processes; a killed one lets go.

    On a network file system this holds between machines if it has ``flock`` (NFS: Linux does;
    Lustre: mounted with ``flock``).

    Raises:
        BlockingIOError: Another one is in, and ``wait`` is False.
        OSError: The lock's file cannot be made, or the file system has no locks.
    """
    with lock.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def replace_file(path: Path, data: bytes) -> None:
    """Write a file that can be had again: whole or absent for every reader, but not synced.

    Raises:
        OSError: The disk refused; nothing new is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}{TEMPORARY}")
    try:
        with _new_file(temporary) as file:
            file.write(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _new_file(path: Path) -> IO[bytes]:
    """A file to write, in place of whatever has its name: a link there is never written through."""
    path.unlink(missing_ok=True)
    return path.open("xb")


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, so that they survive a loss of power."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_folder(made.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sealed_json(payload: dict[str, Any]) -> bytes:
    """The payload with its own hash, always the same bytes for the same payload."""
    return _canonical(payload | {HASH_KEY: _hash(payload)})


def read_sealed_json(path: Path) -> dict[str, Any]:
    """The payload of a file that ``sealed_json`` made; see ``parse_sealed_json``."""
    return parse_sealed_json(read_bounded(path), str(path))


def parse_sealed_json(data: bytes, name: str) -> dict[str, Any]:
    """The payload of ``sealed_json``, its hash under ``sha256``.

    Args:
        data: The bytes.
        name: Where they are from, for messages.

    Raises:
        FormatVersionError: Written in another format.
        DamagedStoreError: Not as it was written.
    """
    try:
        payload: dict[str, Any] = json.loads(data)
        version = payload["format"]
        stated = payload[HASH_KEY]
        content = {key: value for key, value in payload.items() if key != HASH_KEY}
        whole = stated == _hash(content) and _canonical(payload) == data
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedStoreError(f"{name} is not what a dump writes: {error!r:.200}") from error
    if type(version) is not int or version != FORMAT_VERSION:
        raise FormatVersionError(
            f"{name} is of format {version!r:.20}, expected {FORMAT_VERSION}: "
            "read it with the bevcache that wrote it, or dump it anew"
        )
    if not whole:
        raise DamagedStoreError(f"{name} does not match its own hash; fetch the store again")
    return payload


def read_bounded(path: Path, size: int = MAX_DOCUMENT_BYTES) -> bytes:
    """A file's bytes, unless there are more than ``size``.

    Raises:
        UnsafeStoreError: The file is larger than it may be, or no plain file.
        DamagedStoreError: The file is missing or cannot be read.
    """
    with plain_file(path) as file:
        found = os.fstat(file.fileno()).st_size
        if found > size:
            raise UnsafeStoreError(f"{path} has {found} bytes; at most {size} fit")
        return file.read(found)


@contextmanager
def plain_file(path: Path) -> Iterator[BufferedReader]:
    """A file to read; see ``open_plain``.

    Raises:
        UnsafeStoreError: It is no plain file.
        DamagedStoreError: It is missing or cannot be read.
    """
    with os.fdopen(open_plain(path), "rb") as file:
        try:
            yield file
        except OSError as error:
            raise DamagedStoreError(f"{path} cannot be read: {error.strerror}") from error


def open_plain(path: Path) -> int:
    """The descriptor of a file to read; a pipe or a device in its place is never waited for.

    Raises:
        UnsafeStoreError: It is no plain file.
        DamagedStoreError: It is missing or cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        # A link and a socket.
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise UnsafeStoreError(_ODD.format(path)) from error
        raise DamagedStoreError(f"{path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnsafeStoreError(_ODD.format(path))
    return descriptor


def _hash(payload: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(payload)).hexdigest()


def _canonical(payload: dict[str, Any]) -> bytes:
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"{text}\n".encode()
