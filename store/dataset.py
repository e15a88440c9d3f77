"""A cache as a PyTorch data set, for people with their own training code."""

from collections.abc import Sequence
from pathlib import Path

from torch.utils.data import Dataset

from store.reader import Cache, open_cache
from store.rows import CachedRow

Row = int | str | tuple[str, int]


class CacheDataset(Dataset[CachedRow]):
    """The rows of a cache: all arrays of a frame, or of one of its stored views, at once.

    A row is asked for by its number (``frame * views + view``), by token and view, or by the token
    alone, for view 0.

    A location is opened when it is first used. Give DataLoader workers
    ``multiprocessing_context="forkserver"`` or ``"spawn"``: the open cache goes to them without its
    files and connections. Forked workers may read a local store; behind a URL they get an error.

    Args:
        cache: A cache, or the folder, URL or ``team:NAME`` of one.
    """

    def __init__(self, cache: Cache | Path | str) -> None:
        self._cache = cache

    @property
    def cache(self) -> Cache:
        """The cache.

        Raises:
            CacheError: As ``open_cache`` raises.
        """
        if not isinstance(self._cache, Cache):
            self._cache = open_cache(self._cache)
        return self._cache

    def __len__(self) -> int:
        return len(self.cache) * self.cache.views

    def __getitem__(self, row: Row) -> CachedRow:
        """A row.

        Raises:
            IndexError: There is no row of this number.
            CacheError: As ``Cache.row`` raises.
        """
        return self.cache.row(*self._place(row))

    def __getitems__(self, rows: Sequence[Row]) -> list[CachedRow]:
        """Several rows, fetched together: what a DataLoader calls for a batch."""
        return self.cache.read_many([self._place(row) for row in rows])

    def _place(self, row: Row) -> tuple[str, int]:
        if isinstance(row, tuple):
            return row
        if isinstance(row, str):
            return row, 0
        if not -len(self) <= row < len(self):
            raise IndexError(f"there is no row {row}: {self.cache.name} has {len(self)}")
        frame, view = divmod(row % len(self), self.cache.views)
        return self.cache.tokens[frame], view
