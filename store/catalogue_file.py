"""The file of a catalogue, local or behind a URL, changed by several people at once."""

import os
from collections.abc import Callable
from pathlib import Path

from store.errors import CatalogueError, StoreWriteError
from store.files import only_one, publish, read_bounded
from store.remote import Remote, is_url

VARIABLE = "BEVCACHE_CATALOGUE"
PREFIX = "team:"
# A thousand listings of the longest kind are less; a team has dozens.
MAX_CATALOGUE_BYTES = 1 << 24
# Each lost attempt is another's success.
ATTEMPTS = 50

Edit = Callable[[bytes | None], bytes]


class LocalCatalogue:
    """A catalogue on a disk of this machine, or one that it mounts.

    Attributes:
        name: Its path.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()
        self.name = str(self._path)

    def read(self) -> bytes | None:
        """Its bytes; None if it is not there.

        Raises:
            UnsafeStoreError: It is larger than any catalogue.
            DamagedStoreError: It cannot be read.
        """
        return read_bounded(self._path, MAX_CATALOGUE_BYTES) if self._path.exists() else None

    def change(self, edit: Edit) -> None:
        """Replace it by what ``edit`` makes of it; others wait, and see the change.

        Raises:
            StoreWriteError: The disk refused; the catalogue is as it was.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with only_one(self._path.with_name(f"{self._path.name}.lock")):
                found = self.read()
                changed = edit(found)
                if changed != found:
                    publish(self._path, changed)
        except OSError as error:
            raise StoreWriteError(f"cannot write {self.name}: {error.strerror}") from error

    def absolute(self, location: str) -> str:
        """A listed location, as this machine finds it."""
        return location if is_url(location) else str(self._path.parent / location)

    def relative(self, place: Path | str) -> str:
        """A location as it is listed: from this file on if it lies below its folder."""
        if is_url(str(place)):
            return str(place)
        return str(Path(place).resolve()).removeprefix(f"{self._path.parent}/")


class RemoteCatalogue:
    """A catalogue behind a URL; http(s) can only be read.

    Attributes:
        name: The URL.
    """

    def __init__(self, url: str) -> None:
        folder, _, self._key = url.rpartition("/")
        self._remote = Remote(folder)
        self.name = url

    def read(self) -> bytes | None:
        """See ``LocalCatalogue.read``; raises ``RemoteError`` too."""
        return self._remote.get(self._key, MAX_CATALOGUE_BYTES)

    def change(self, edit: Edit) -> None:
        """Replace it by what ``edit`` makes of it, unless others came first: then again.

        Raises:
            RemoteError: The service does not take it, or is read-only.
            CatalogueError: Others come first again and again.
        """
        sent: bytes | None = None
        for _ in range(ATTEMPTS):
            found, version = self._remote.get_version(self._key, MAX_CATALOGUE_BYTES)
            # An answer may be lost on its way although the service has taken what was sent.
            if found is not None and found == sent:
                return
            sent = edit(found)
            if sent == found or self._remote.put_version(self._key, sent, version):
                return
        raise CatalogueError(
            f"{self.name} is being changed by others all the time; run the same command again"
        )

    def absolute(self, location: str) -> str:
        """See ``LocalCatalogue.absolute``."""
        own = is_url(location) or location.startswith("/")
        return location if own else f"{self._remote.name}/{location}"

    def relative(self, place: Path | str) -> str:
        """See ``LocalCatalogue.relative``."""
        if not is_url(str(place)):
            return str(Path(place).resolve())
        return str(place).rstrip("/").removeprefix(f"{self._remote.name}/")


CatalogueFile = LocalCatalogue | RemoteCatalogue


def catalogue_file() -> CatalogueFile:
    """The file that ``BEVCACHE_CATALOGUE`` names; it need not be there yet.

    Raises:
        CatalogueError: The variable is not set.
        RemoteError: It holds a URL that cannot be used.
    """
    place = os.environ.get(VARIABLE, "")
    if not place:
        raise CatalogueError(
            f"{VARIABLE} is not set: give it the path or the URL of your team's catalogue file"
        )
    return RemoteCatalogue(place) if is_url(place) else LocalCatalogue(Path(place))
