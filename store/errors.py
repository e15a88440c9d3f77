"""What can go wrong with a cache, as one tree of exceptions."""

from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

# What mends missing label maps beside another dump.
LABEL_HINT = (
    " Label maps are stored with dump-teacher --label-encoder; or a step computes them, and needs "
    'none: train-student --label-encoder, which is labels = "ground_truth" in '
    "[methods.labeldistill]."
)


def printable(text: str, keep: str = "") -> str:
    """The text without what a console would obey: names in a stranger's store may hold anything.

    Args:
        text: From a store or an error.
        keep: Characters to leave, such as line ends.
    """
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)


def explained(error: ValidationError) -> str:
    """What is wrong with a document, in a line; its values are not repeated, they may be secret."""
    lines = [
        f"{'.'.join(map(str, line['loc']))}: {line['msg']}"
        for line in error.errors(include_url=False, include_input=False)
    ]
    return printable("; ".join(lines[:5]))[:1000]


class CacheError(Exception):
    """Anything the cache refuses or cannot do; the message says what mends it."""


class PlanError(CacheError):
    """The needs of the methods cannot be turned into arrays."""


class RowValueError(CacheError):
    """A row's values or identity do not fit the plan."""


class StoreExistsError(CacheError):
    """The destination is taken: by a foreign folder, or by an unfinished dump."""


class SealedStoreError(CacheError):
    """The destination is a finished store, which nothing changes any more."""


class StoreWriteError(CacheError):
    """The disk refused a write; what was committed before stays."""


class IncompleteStoreError(CacheError):
    """The store is not sealed yet."""


class NotACacheError(CacheError):
    """The folder holds no store."""


class RemoteError(CacheError):
    """A URL cannot be used, or its service does not answer as it should."""


class CatalogueError(CacheError):
    """A team's catalogue, or a name in it, cannot be used."""


class MirrorError(CacheError):
    """The local mirror of remote stores cannot be used."""


class FormatVersionError(CacheError):
    """The store was written in another format."""


class UnsafeStoreError(CacheError):
    """The store holds something that format 1 never writes, so it is not opened."""


class DamagedStoreError(CacheError):
    """A file of the store is not as it was written."""


class AlteredFileError(DamagedStoreError):
    """A file has its size but not its bytes."""


class DamagedRowError(DamagedStoreError):
    """One array of one row is missing or not as it was written.

    Attributes:
        store: Where it is.
        token: The row.
        array: The array.
        found: What is wrong with it.
    """

    def __init__(self, store: Path | str, token: str, array: str, found: str) -> None:
        super().__init__(
            f"array {array!r} of row {token!r} is damaged: {found}. Fetch {store} again, "
            "or dump it anew."
        )
        self.store = store
        self.token = token
        self.array = array
        self.found = found

    def __reduce__(self) -> tuple[type["DamagedRowError"], tuple[Path | str, str, str, str]]:
        # By default an exception is rebuilt from its message alone, which __init__ does not take.
        return DamagedRowError, (self.store, self.token, self.array, self.found)


class UnknownTokenError(CacheError):
    """The cache holds no such row."""


class FingerprintError(CacheError):
    """A store was made for something else than what is asked of it.

    Attributes:
        mismatches: One readable line each.
    """

    def __init__(self, path: Path | str, mismatches: Iterable[str], remedy: str) -> None:
        self.mismatches = tuple(mismatches)
        super().__init__("\n  ".join([f"cache {path} does not match:", *self.mismatches, remedy]))
        self._given = (path, self.mismatches, remedy)

    def __reduce__(
        self,
    ) -> tuple[type["FingerprintError"], tuple[Path | str, tuple[str, ...], str]]:
        return FingerprintError, self._given


class MissingTargetError(CacheError):
    """A method reads a teacher target that the cache does not hold."""

    def __init__(self, path: Path | str, missing: Iterable[str], held: Iterable[str]) -> None:
        missing = list(missing)
        hint = LABEL_HINT if any(target.startswith("label_") for target in missing) else ""
        super().__init__(
            f"cache {path} has no {', '.join(missing)}; it holds {', '.join(held)}. Dump it with: "
            f"bevcache dump-teacher --methods <every method you train>, into a new folder.{hint}"
        )
