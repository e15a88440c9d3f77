"""Whole maps through zarr, one frame at a time."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.storage import LocalStore


class MapReader:
    """Reads single frames of a store's map arrays.

    The handles are opened when first used and belong to one process: pickling drops them, and a
    forked process opens its own.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._handles: dict[str, Any] = {}
        self._pid = os.getpid()

    def __getstate__(self) -> Path:
        return self._root

    def __setstate__(self, root: Path) -> None:
        self.__init__(root)  # type: ignore[misc]

    def read(self, key: str, row: int) -> npt.NDArray[Any]:
        """One frame's map, not yet held against its digest.

        Raises:
            ValueError, RuntimeError, OSError: The shard does not decode.
        """
        return np.asarray(self._handle(key)[row])

    def _handle(self, key: str) -> Any:
        if self._pid != os.getpid():
            self._handles, self._pid = {}, os.getpid()
        if key not in self._handles:
            self._handles[key] = open_array(self._root, key)
        return self._handles[key]


def open_array(root: Path, key: str) -> Any:
    """A Zarr array of a store whose metadata has been checked, read-only."""
    return zarr.open_array(LocalStore(root, read_only=True), path=key, mode="r", zarr_format=3)
