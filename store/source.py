"""Where the files of a sealed store come from: its own folder, or a mirror of one behind a URL."""

import fcntl
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import IO, Protocol, runtime_checkable

from pydantic import ByteSize, TypeAdapter

from store.errors import CacheError, DamagedStoreError, MirrorError
from store.files import TEMPORARY, read_bounded, replace_file
from store.guard import check_size, refuse_links
from store.location import get_file, manifest_of
from store.manifest import Manifest
from store.remote import CONNECTIONS, Remote

# The mirror of all remote stores on this machine, and how large it may grow.
MIRROR_VARIABLE = "BEVCACHE_MIRROR"
MIRROR_BYTES_VARIABLE = "BEVCACHE_MIRROR_BYTES"
MIRROR_BYTES = 50 << 30
LOCK = ".lock"
# Seconds to wait for another process that fetches the same file.
LONGEST_TURN = 60.0
# A file arrives whole before it is written, so that no writing takes as long.
STALE_SECONDS = 3600


@runtime_checkable
class Source(Protocol):
    """A sealed store's files.

    Attributes:
        root: Folder in which they lie, or will once fetched.
        name: Where the store is, for messages.
        evicts: Whether files may vanish again.
    """

    root: Path
    name: str
    evicts: bool

    def prepare(self, manifest: Manifest) -> None:
        """Check what can be checked before anything is read.

        Raises:
            CacheError: A file is missing, of another size, or a link.
        """

    def fetch(self, keys: Iterable[str]) -> None:
        """See to it that these files lie under ``root``.

        Raises:
            CacheError: They cannot be had as the manifest describes them.
        """

    def renew(self, keys: Iterable[str]) -> None:
        """Fetch again those of these files that are not, to the byte, what the manifest says.

        Raises:
            CacheError: They cannot be had.
        """


class LocalSource:
    """A store's own folder."""

    evicts = False

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = str(root)

    def prepare(self, manifest: Manifest) -> None:
        """See ``Source``."""
        for layout in manifest.ragged:
            for key in layout.chunk_keys:
                check_size(self.root / key, manifest.files[key])

    def fetch(self, keys: Iterable[str]) -> None:
        """They are here; see to it that nothing leads elsewhere."""
        refuse_links(self.root, list(keys))

    def renew(self, keys: Iterable[str]) -> None:
        """Nothing to do: there is nowhere else to have them from."""


class MirrorSource:
    """A local, partial copy of a store behind a URL: a file comes when it is first asked for.

    Safe for many processes: a file appears whole, with the bytes of the manifest, and comes once
    for all of them; whoever still has one open that another process has evicted keeps it.

    Args:
        remote: The store.
        folder: Of all mirrors.
        max_bytes: How large that folder may grow, to within a 64th for each process; the files
            unused for longest go first.

    Attributes:
        manifest: The store's.
    """

    evicts = True

    def __init__(self, remote: Remote, folder: Path, max_bytes: int) -> None:
        self._remote = remote
        self._folder = folder
        self._max_bytes = max_bytes
        self._unseen = max_bytes
        self.manifest = manifest_of(remote)
        self.name = remote.name
        self.root = folder / self.manifest.root_hash

    def prepare(self, manifest: Manifest) -> None:
        """Nothing to do: each file is checked as it arrives."""

    def fetch(self, keys: Iterable[str]) -> None:
        """See ``Source``."""
        wanted = list(dict.fromkeys(keys))
        missing = [key for key in wanted if not self._touch(key)]
        self._bring_all(missing, self._touch)
        self._unseen += sum(self.manifest.files[key].size for key in missing)
        # To look through a large mirror takes longer than to fetch a small file.
        if missing and self._unseen > self._max_bytes // 64:
            self._unseen = 0
            evict(self._folder, self._max_bytes, keep={self.root / key for key in wanted})

    def renew(self, keys: Iterable[str]) -> None:
        """See ``Source``."""
        self._bring_all(list(keys), self._is_right)

    def _bring_all(self, keys: list[str], arrived: Callable[[str], bool]) -> None:
        if len(keys) == 1:
            self._bring(keys[0], arrived)
        elif keys:
            with ThreadPoolExecutor(CONNECTIONS) as pool:
                list(pool.map(self._bring, keys, repeat(arrived)))

    def _bring(self, key: str, arrived: Callable[[str], bool]) -> None:
        path = self.root / key
        try:
            self._unlink_odd_folders(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            with in_turn(path.with_name(path.name + LOCK)):
                # Whoever had the turn before may have brought it.
                if not arrived(key):
                    data = self._download(key)
                    if path.is_dir() and not path.is_symlink():
                        shutil.rmtree(path)
                    replace_file(path, data)
        except OSError as error:
            raise MirrorError(
                f"cannot write {path}: {error.strerror}. Remote stores are mirrored there: make "
                f"room, set {MIRROR_VARIABLE} to another folder, or {MIRROR_BYTES_VARIABLE} to "
                "fewer bytes"
            ) from error

    def _unlink_odd_folders(self, key: str) -> None:
        """Of what is no folder on the way to a file, so that nothing is written elsewhere."""
        for folder in (self.root / parent for parent in reversed(Path(key).parents)):
            if folder != self.root and (folder.is_symlink() or folder.is_file()):
                folder.unlink(missing_ok=True)

    def _download(self, key: str) -> bytes:
        data = get_file(self._remote, key, self.manifest.files[key])
        if data is None:
            raise DamagedStoreError(f"{self.name}/{key} is missing; copy the store there again")
        return data

    def _touch(self, key: str) -> bool:
        """Whether the file is here; its time of modification says when it was last wanted."""
        try:
            os.utime(self.root / key, follow_symlinks=False)
            found = os.lstat(self.root / key)
            # Files are not synced: after a loss of power one may be empty.
            return stat.S_ISREG(found.st_mode) and found.st_size == self.manifest.files[key].size
        except OSError:
            return False

    def _is_right(self, key: str) -> bool:
        entry = self.manifest.files[key]
        try:
            return entry.fits(read_bounded(self.root / key, entry.size))
        except CacheError:
            return False


@contextmanager
def in_turn(lock: Path) -> Iterator[None]:
    """Let in one at a time, of all threads and processes, but wait no longer than ``LONGEST_TURN``.

    Who waits that long goes in as well: one that is stopped must not stop all others.

    Raises:
        OSError: The lock's file cannot be made, or the file system has no locks.
    """
    with lock.open("ab") as file:
        give_up = time.monotonic() + LONGEST_TURN
        while not _locked(file) and time.monotonic() < give_up:
            time.sleep(0.005)
        yield
        # Whoever waits for it finds the file that it guards.
        lock.unlink(missing_ok=True)


def _locked(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def evict(folder: Path, max_bytes: int, keep: set[Path]) -> None:
    """Remove files, those unused for longest first, until the rest fits.

    What a killed process has left half written, or locked, goes after an hour.
    """
    files = []
    for path, status in _files_below(folder):
        if path.suffix not in (TEMPORARY, LOCK):
            files.append((status.st_mtime, status.st_size, path))
        elif time.time() - status.st_mtime > STALE_SECONDS:
            path.unlink(missing_ok=True)
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= max_bytes:
            return
        if path not in keep:
            path.unlink(missing_ok=True)
            total -= size


def _files_below(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in folder.rglob("*"):
        try:
            status = path.stat()
        except FileNotFoundError:
            # Another process evicts too.
            continue
        if stat.S_ISREG(status.st_mode):
            yield path, status


def mirror_folder() -> Path:
    """Folder of all mirrors, in ``BEVCACHE_MIRROR`` or the user's cache folder.

    One of its own: whatever else lies beside it is never evicted.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(os.environ.get(MIRROR_VARIABLE, cache)) / "bevcache-mirror"


def mirror_bytes() -> int:
    """How large it may grow: ``BEVCACHE_MIRROR_BYTES`` (``20000000000``, ``20GB``), or 50 GiB.

    Raises:
        MirrorError: The variable holds no size.
    """
    text = os.environ.get(MIRROR_BYTES_VARIABLE, str(MIRROR_BYTES))
    try:
        return TypeAdapter(ByteSize).validate_python(text)
    except ValueError as error:
        raise MirrorError(
            f"{MIRROR_BYTES_VARIABLE}={text!r} is no size: expected bytes, or 20GB, 20GiB"
        ) from error
