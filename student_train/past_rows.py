"""What the teacher said of the key frames before a frame: other rows of the same cache.

A frame's past is found by its ``prev``. Where a scene begins later than the offset asks for, its
first frame stands for what is missing, as published students look again at the last valid frame,
and the targets say so. A past that the data set has and the cache lacks is an error.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import torch

from frames.augment import BevAugment
from frames.errors import DataError
from frames.frame import Frame
from frames.grid import BEVGrid
from store.plan import arrays_read
from store.reader import Cache
from store.schema import Need
from student_train.targets import FrameTargets, frame_targets


class PastRows:
    """The past rows of a student's frames, found once, read with each frame.

    Args:
        cache: Where they are.
        needs: What is read; those with an offset count here, and there is one.
        frames: Of the student.
        grid: Of the cache.

    Raises:
        DataError: The cache lacks a frame that the data set has before one of these.
    """

    def __init__(
        self, cache: Cache, needs: Collection[Need], frames: Sequence[Frame], grid: BEVGrid
    ) -> None:
        past = [need for need in needs if need.offset]
        self.cache = cache.only(arrays_read(past, cache.fingerprint.arrays))
        self.grid = grid
        self.needs: Mapping[int, frozenset[Need]] = {
            offset: frozenset(replace(need, offset=0) for need in past if need.offset == offset)
            for offset in sorted({need.offset for need in past}, reverse=True)
        }
        longest, previous = -min(self.needs), _previous(cache, frames)
        chains = {frame.token: _chain(frame.token, previous, longest) for frame in frames}
        # Token and offset to the frame that is read, and whether it is so far back.
        self.place = {
            (token, offset): (chain[min(-offset, len(chain) - 1)], -offset < len(chain))
            for token, chain in chains.items()
            for offset in self.needs
        }

    def fetch(self, rows: Iterable[tuple[str, int]]) -> None:
        """Bring the past of these rows, each a token and a view, near."""
        self.cache.fetch(
            (self.place[token, offset][0], view) for token, view in rows for offset in self.needs
        )

    def targets(self, token: str, view: int) -> dict[int, FrameTargets]:
        """What is read of a frame's past, by offset; the same view as the frame's own."""
        return {offset: self._at(token, offset, view) for offset in self.needs}

    def _at(self, token: str, offset: int, view: int) -> FrameTargets:
        past, reached = self.place[token, offset]
        row = self.cache.row(past, view)
        found = frame_targets(row, self.needs[offset], self.grid, BevAugment.identity())
        return replace(found, reached=torch.tensor(reached))


def _previous(cache: Cache, frames: Sequence[Frame]) -> dict[str, str]:
    """Token of the frame before each one of the cache, "" at the start of a scene.

    The data set decides; of frames that it does not have here, the cache's own rows do.
    """
    rows = cache.identities()
    previous = {row.token: rows[row.prev].token if row.prev >= 0 else "" for row in rows}
    told = {frame.token: frame.prev for frame in frames}
    if lost := [token for token, before in told.items() if before and before not in cache]:
        raise DataError(
            f"cache {cache.name} lacks the frame before {lost[0]}, {told[lost[0]]}, of which a "
            f"method reads what the teacher said ({len(lost)} of {len(told)} frames miss theirs): "
            "dump whole scenes, or leave out the method's past"
        )
    return previous | told


def _chain(token: str, previous: Mapping[str, str], longest: int) -> list[str]:
    """The frame and those before it, as far as the scene goes."""
    chain = [token]
    while len(chain) <= longest and (before := previous[chain[-1]]):
        chain.append(before)
    return chain
