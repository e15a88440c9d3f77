"""Where the files of a sealed store come from: its own folder, or a mirror of one behind a URL."""

import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, runtime_checkable

from pydantic import ByteSize, TypeAdapter

from store.errors import DamagedStoreError, MirrorError, NotACacheError
from store.files import MAX_DOCUMENT_BYTES, TEMPORARY, FileEntry, replace_file
from store.guard import check_size, refuse_links
from store.layout import MANIFEST
from store.manifest import Manifest
from store.remote import CONNECTIONS, Remote

# The mirror of all remote stores on this machine, and how large it may grow.
MIRROR_VARIABLE = "BEVCACHE_MIRROR"
MIRROR_BYTES_VARIABLE = "BEVCACHE_MIRROR_BYTES"
MIRROR_BYTES = 50 << 30
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


class MirrorSource:
    """A local, partial copy of a store behind a URL: a file comes when it is first asked for.

    Safe for many processes: a file appears whole, with the bytes of the manifest, and whoever
    still maps one that another process has evicted keeps it.

    Args:
        remote: The store.
        folder: Of all mirrors.
        max_bytes: How large that folder may grow; the files unused for longest go first.
    """

    evicts = True

    def __init__(self, remote: Remote, folder: Path, max_bytes: int) -> None:
        self._remote = remote
        self._folder = folder
        self._max_bytes = max_bytes
        data = remote.get(MANIFEST, MAX_DOCUMENT_BYTES)
        if data is None:
            raise NotACacheError(
                f"{remote.name} holds no {MANIFEST}: expected the folder of a finished store"
            )
        manifest = Manifest.parse(data, f"{remote.name}/{MANIFEST}")
        self.name = remote.name
        self.root = folder / manifest.root_hash
        self._files = manifest.files
        self._keep(MANIFEST, data)

    def prepare(self, manifest: Manifest) -> None:
        """Nothing to do: each file is checked as it arrives."""

    def fetch(self, keys: Iterable[str]) -> None:
        """See ``Source``."""
        wanted = list(keys)
        missing = [key for key in wanted if not self._touch(key)]
        if len(missing) == 1:
            self._download(missing[0])
        elif missing:
            with ThreadPoolExecutor(CONNECTIONS) as pool:
                list(pool.map(self._download, missing))
        if missing:
            evict(self._folder, self._max_bytes, keep={self.root / key for key in wanted})

    def _touch(self, key: str) -> bool:
        """Whether the file is here; its time of modification says when it was last wanted."""
        try:
            os.utime(self.root / key)
            # Files are not synced: after a loss of power one may be empty.
            return (self.root / key).stat().st_size == self._files[key].size
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _download(self, key: str) -> None:
        entry = self._files[key]
        data = self._remote.get(key, entry.size)
        if data is None:
            raise DamagedStoreError(f"{self.name}/{key} is missing; copy the store there again")
        if FileEntry.of(data) != entry:
            raise DamagedStoreError(
                f"{self.name}/{key} is not as it was written; copy the store there again"
            )
        self._keep(key, data)

    def _keep(self, key: str, data: bytes) -> None:
        try:
            replace_file(self.root / key, data)
        except OSError as error:
            raise MirrorError(
                f"cannot write {self.root / key}: {error.strerror}. Remote stores are mirrored "
                f"there: make room, set {MIRROR_VARIABLE} to another folder, or "
                f"{MIRROR_BYTES_VARIABLE} to fewer bytes"
            ) from error


def evict(folder: Path, max_bytes: int, keep: set[Path]) -> None:
    """Remove files, those unused for longest first, until the rest fits."""
    files = []
    for path in folder.rglob("*"):
        try:
            status = path.stat()
        except FileNotFoundError:
            # Another process evicts too.
            continue
        if path.suffix == TEMPORARY:
            _sweep(path, status.st_mtime)
        elif path.is_file():
            files.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= max_bytes:
            return
        if path not in keep:
            path.unlink(missing_ok=True)
            total -= size


def _sweep(temporary: Path, written: float) -> None:
    """Remove a file that a killed process has left, not one that is on its way."""
    if written < time.time() - STALE_SECONDS:
        temporary.unlink(missing_ok=True)


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
