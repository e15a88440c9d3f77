"""The order of training examples: a function of the seed and the position, so it can resume."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

Example = tuple[int, int]


class StepSampler(Sampler[Example]):
    """Yields (index, position): one shuffled pass over the data after another.

    The position numbers the examples of the whole run; data sets seed an example's augmentation
    with it, so that the stream depends neither on the worker count nor on interruptions.

    Args:
        size: Number of examples in the data set.
        total: Examples to yield in the whole run.
        seed: Decides the shuffles.
    """

    def __init__(self, size: int, total: int, seed: int) -> None:
        self.size, self.total, self.seed = size, total, seed
        self.start = 0

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[Example]:
        position = self.start
        while position < self.total:
            epoch, skip = divmod(position, self.size)
            order = np.random.default_rng([self.seed, epoch]).permutation(self.size)
            for index in order[skip : skip + self.total - position]:
                yield int(index), position
                position += 1
