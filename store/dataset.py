"""A cache as a PyTorch data set, for people with their own training code."""

from collections.abc import Sequence
from pathlib import Path

from torch.utils.data import Dataset

from store.reader import Cache, open_cache
from store.rows import CachedRow

Key = int | str


class CacheDataset(Dataset[CachedRow]):
    """The rows of a cache, by number or by token: all arrays of a frame at once, read-only.

    A location is opened when it is first used. Give DataLoader workers
    ``multiprocessing_context="forkserver"`` or ``"spawn"``: the open cache goes to them without its
    mappings and connections. Forked workers may read a local store; behind a URL they get an error.

    Args:
        cache: A cache, or the folder or URL of one.
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
        return len(self.cache)

    def __getitem__(self, key: Key) -> CachedRow:
        """A row.

        Raises:
            IndexError: There is no row of this number.
            CacheError: As ``Cache.__getitem__`` raises.
        """
        return self.cache[self._token(key)]

    def __getitems__(self, keys: Sequence[Key]) -> list[CachedRow]:
        """Several rows, fetched together: what a DataLoader calls for a batch."""
        return self.cache.read_many([self._token(key) for key in keys])

    def _token(self, key: Key) -> str:
        return key if isinstance(key, str) else self.cache.tokens[key]
