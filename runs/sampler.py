"""The order of training examples: a function of the seed and the position, so it can resume."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset, Sampler

Example = tuple[int, int]
Indices = npt.NDArray[np.int64]
T_co = TypeVar("T_co", covariant=True)
# Blocks among which examples are shuffled: with sixteen frames in each, 256 frames.
WINDOW = 16


@dataclass(frozen=True, slots=True)
class Blocks:
    """Examples that are slow to reach one by one, but come in blocks.

    Attributes:
        of: Block of each example.
        fetch: Brings the blocks of these examples near; called in a thread, ahead of their use.
    """

    of: Sequence[int]
    fetch: Callable[[Sequence[int]], None]


class TrainingData(Dataset[T_co], ABC):
    """What a training run reads: an example by its index and its position in the run."""

    @property
    def blocks(self) -> Blocks | None:
        """How the examples lie together; None if any order is as fast."""
        return None

    @abstractmethod
    def __len__(self) -> int:
        """Number of examples."""

    @abstractmethod
    def __getitem__(self, example: Example) -> T_co:
        """An example; its position seeds its augmentation."""

    @staticmethod
    @abstractmethod
    def collate(examples: list[Any]) -> Any:
        """Examples as one batch."""


class StepSampler(Sampler[Example]):
    """Yields (index, position): one shuffled pass over the data after another.

    The position numbers the examples of the whole run; data sets seed an example's augmentation
    with it, so that the stream depends neither on the worker count nor on interruptions.

    With blocks a pass takes ``WINDOW`` of them at a time, in shuffled order, and shuffles their
    examples among each other; while one window is yielded the next one is fetched.

    Args:
        size: Number of examples in the data set.
        total: Examples to yield in the whole run.
        seed: Decides the shuffles.
        blocks: Of the data set, if it has any.
    """

    def __init__(self, size: int, total: int, seed: int, blocks: Blocks | None = None) -> None:
        self.size, self.total, self.seed, self.blocks = size, total, seed, blocks
        self.start = 0

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[Example]:
        position = self.start
        windows = self._windows()
        following = next(windows)
        with self._fetcher() as fetch:
            fetch(following)
            while position < self.total:
                window, following = following, next(windows)
                if position + len(window) < self.total:
                    fetch(following)
                for index in window[: self.total - position]:
                    yield int(index), position
                    position += 1

    def _windows(self) -> Iterator[Indices]:
        """From the start on, without end: what is still to be yielded of each window."""
        epoch, skip = divmod(self.start, self.size)
        while True:
            for window in self._pass(epoch):
                if skip < len(window):
                    yield window[skip:]
                skip = max(0, skip - len(window))
            epoch += 1

    def _pass(self, epoch: int) -> list[Indices]:
        rng = np.random.default_rng([self.seed, epoch])
        if self.blocks is None:
            return [rng.permutation(self.size)]
        block_of = np.asarray(self.blocks.of)
        blocks = rng.permutation(np.unique(block_of))
        windows = [blocks[first : first + WINDOW] for first in range(0, len(blocks), WINDOW)]
        return [rng.permutation(np.flatnonzero(np.isin(block_of, w))) for w in windows]

    @contextmanager
    def _fetcher(self) -> Iterator[Callable[[Indices], None]]:
        blocks = self.blocks
        if blocks is None:
            yield lambda _: None
            return
        pool = ThreadPoolExecutor(1, "fetch-ahead")
        block_of = np.asarray(blocks.of)

        def fetch(window: Indices) -> None:
            # One at a time, so that an interrupted run does not wait for a whole window. What fails
            # here is not lost: it fails again, and is heard, when the example is read.
            for block in dict.fromkeys(block_of[window].tolist()):
                pool.submit(blocks.fetch, window[block_of[window] == block].tolist())

        try:
            yield fetch
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
