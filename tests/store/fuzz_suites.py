"""What is fuzzed: a sealed store, an unfinished one, one behind a web server.

A suite owns a store, spoils it, reads all of it, and mends it again for the next case.
"""

import os
import random
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from frames.boxes import Boxes3D
from store.choices import Encoding
from store.errors import CacheError
from store.reader import Cache, open_cache
from store.rows import CachedRow
from store.summary import summary
from store.verify import verify
from store.writer import StoreWriter
from tests.store.building import (
    ALL_NEEDS,
    build,
    fingerprint,
    identities,
    tree,
    usual_values,
    write_pending,
)
from tests.store.fuzz import Spoil, damage, edit_text, files_of, odd_file
from tests.store.fuzz_hostile import (
    bomb,
    codec,
    giant,
    hostile_record,
    index,
    signed_damage,
    signed_edit,
)
from tests.web_server import served

ROWS = 18
UNFINISHED_ROWS = 36
# To hash sparse files of terabytes takes as long as to hash full ones.
MAX_HASHED = 1 << 28
Values = dict[str, tuple[str, tuple[int, ...], bytes]]


class WrongValueError(Exception):
    """The reader passed on something else than was stored."""


def values_of(row: CachedRow) -> Values:
    """Everything that a row holds, to the byte."""
    gt: Boxes3D = row.gt
    arrays = row.arrays | {"gt.values": gt.values.numpy(), "gt.labels": gt.labels.numpy()}
    return {name: (str(a.dtype), a.shape, a.tobytes()) for name, a in arrays.items()}


def signature(store: Path) -> dict[str, tuple[int, int, int]]:
    """Which files and folders a folder has, and whether they have been touched."""
    found = {}
    for folder, folders, files in os.walk(store):
        for name in (*folders, *files):
            status = os.lstat(f"{folder}/{name}")
            stamp = 0 if stat.S_ISDIR(status.st_mode) else status.st_mtime_ns
            found[f"{folder}/{name}"] = (status.st_ino, status.st_mode, stamp)
    return found


class SealedSuite:
    """A sealed store of two parts in a folder."""

    # (how often, how, whether an author computed the hashes anew so that other values are lawful)
    spoils: Sequence[tuple[int, Spoil, bool]] = (
        (50, damage, False),
        (12, odd_file, False),
        (20, edit_text, False),
        (12, signed_damage, True),
        (25, signed_edit, True),
        (10, codec, True),
        (15, bomb, True),
        (12, index, True),
        (10, giant, True),
    )

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store"
        # Hostile pickles touch it.
        self.marker = folder / "marker"
        self.told = ""

    def prepare(self) -> None:
        """Build the store and remember its values."""
        build(self.store, ROWS, needs=ALL_NEEDS, encoding=Encoding.FLOAT8)
        self.files = tree(self.store)
        self.signature = signature(self.store)
        cache = self.open()
        self.fingerprint = cache.fingerprint
        self.values = {token: values_of(cache[token]) for token in cache.tokens}

    def open(self) -> Cache:
        return open_cache(self.store)

    def run(self, rng: random.Random) -> str:
        """Spoil the store and read it; gives ``same``, ``other`` or ``refused``."""
        weights, ways, signed = zip(*self.spoils, strict=True)
        (way,) = rng.choices(range(len(ways)), weights)
        cache = self.open() if rng.random() < 0.15 else None
        if cache is not None:
            cache[cache.tokens[-1]]
        self.told = f"{'open; ' if cache else ''}{ways[way](self.store, rng)}"
        (self.folder / "told").write_text(self.told)
        verdict = self.read(cache, strict=not signed[way])
        if rng.random() < 0.15 and self.bytes() < MAX_HASHED:
            self.inspect(strict=not signed[way])
        return verdict

    def bytes(self) -> int:
        """Of all files, with their holes."""
        return sum(path.stat().st_size for path in files_of(self.store))

    def read(self, cache: Cache | None, *, strict: bool) -> str:
        """Read every row, on after each refusal."""
        try:
            cache = cache or self.open()
        except CacheError as error:
            return refused(error)
        if strict and cache.fingerprint != self.fingerprint:
            raise WrongValueError("fingerprint")
        verdict = "same" if strict else "other"
        for token in cache.tokens:
            try:
                values = values_of(cache[token])
            except CacheError as error:
                verdict = refused(error)
                continue
            if strict and values != self.values.get(token):
                raise WrongValueError(token)
        return verdict

    def inspect(self, *, strict: bool) -> None:
        """``info`` and ``verify`` refuse it too, or find every altered byte."""
        self.inspect_at(self.store, strict=strict)

    def inspect_at(self, place: Path | str, *, strict: bool) -> None:
        try:
            summary(place)
            faults = verify(place)
        except CacheError as error:
            refused(error)
            return
        if strict and not faults and not self.files.items() <= tree(self.store).items():
            raise WrongValueError("verify finds nothing")

    def mend(self) -> None:
        """Put back whatever was touched."""
        found = signature(self.store)
        for touched, seen in found.items():
            if self.signature.get(touched) != seen and stat.S_ISDIR(seen[1]):
                shutil.rmtree(touched, ignore_errors=True)
            elif self.signature.get(touched) != seen:
                Path(touched).unlink(missing_ok=True)
        for name, data in self.files.items():
            path = self.store / name
            if found.get(str(path)) != self.signature[str(path)] or not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        if found != self.signature:
            self.signature = signature(self.store)


def spoilt_mirror(store: Path, rng: random.Random) -> str:
    """Spoil a copy that has been fetched before; the manifest is fetched anew each time."""
    cache = open_cache(os.environ["BEVCACHE_URL"])
    for token in cache.tokens:
        cache.row(token)
    (mirror,) = (store.parent / "mirror/bevcache-mirror").iterdir()
    return f"mirror: {damage(mirror, rng)}"


def refused(error: CacheError) -> str:
    """The verdict; an error must say something."""
    if not str(error).strip():
        raise WrongValueError(f"{error!r} says nothing")
    return "refused"


class UnfinishedSuite(SealedSuite):
    """Two of three committed parts of a dump, resumed now and then."""

    spoils = (
        (50, damage, False),
        (10, odd_file, False),
        (20, edit_text, False),
        (20, signed_edit, True),
        (40, hostile_record, True),
    )

    def prepare(self) -> None:
        """Write two parts and remember all values."""
        rows = identities(UNFINISHED_ROWS)
        self.fingerprint = fingerprint(rows)
        self.whole = tree(build(self.folder / "whole", UNFINISHED_ROWS))
        whole = open_cache(self.folder / "whole")
        self.values = {token: values_of(whole[token]) for token in whole.tokens}
        writer = StoreWriter.open(self.store, self.fingerprint, rows)
        for part in writer.parts[:2]:
            writer.write_part(part, [usual_values(self.fingerprint, row) for row in part])
        self.files = tree(self.store)
        self.signature = signature(self.store)

    def open(self) -> Cache:
        return open_cache(self.store, allow_incomplete=True)

    def inspect(self, *, strict: bool) -> None:
        """``info`` refuses it too; resuming ends in the store that an undisturbed dump writes."""
        try:
            summary(self.store)
            rows = identities(UNFINISHED_ROWS)
            writer = StoreWriter.open(self.store, self.fingerprint, rows, resume=True)
            write_pending(writer, self.fingerprint)
            writer.finalise()
        except CacheError as error:
            refused(error)
            return
        if strict and not self.whole.items() <= tree(self.store).items():
            raise WrongValueError("the resumed store is another")


class RemoteSuite(SealedSuite):
    """A sealed store behind a web server, and its mirror."""

    def prepare(self) -> None:
        """Build the store and serve it."""
        build(self.store, ROWS)
        self.files = tree(self.store)
        self.signature = signature(self.store)
        self.mirror = self.folder / "mirror"
        os.environ["BEVCACHE_MIRROR"] = str(self.mirror)
        # For as long as this process lives.
        self.server = served(self.folder)
        self.url = f"{self.server.__enter__()}/store"
        os.environ["BEVCACHE_URL"] = self.url
        cache = self.open()
        self.fingerprint = cache.fingerprint
        self.values = {token: values_of(cache[token]) for token in cache.tokens}

    spoils = (
        (50, damage, False),
        (10, edit_text, False),
        (25, spoilt_mirror, False),
        (10, signed_damage, True),
        (15, signed_edit, True),
        (10, bomb, True),
        (10, index, True),
        (10, giant, True),
    )

    def open(self) -> Cache:
        return open_cache(self.url)

    def inspect(self, *, strict: bool) -> None:
        """``info`` and ``verify`` refuse it too, or find every altered byte."""
        self.inspect_at(self.url, strict=strict)

    def mend(self) -> None:
        """Put back whatever was touched, and forget what has been fetched."""
        super().mend()
        shutil.rmtree(self.mirror, ignore_errors=True)


SUITES: dict[str, Any] = {
    "sealed": SealedSuite,
    "unfinished": UnfinishedSuite,
    "remote": RemoteSuite,
}
