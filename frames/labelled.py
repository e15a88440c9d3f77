"""Few labels: which frames' annotations a run may see; those of the others are never read.

A frame is chosen by a hash of its token and a seed, so the choice depends on no order and no other
frame, and the frames of a smaller fraction are among those of a larger one.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field

from frames.errors import DataError
from frames.frame import Frame

HASH_BYTES = 8


class FewLabels(BaseModel):
    """What a data set's config says of it.

    Attributes:
        labelled: Fraction of the frames whose annotations are read. The others have no boxes.
        labelled_seed: Of the choice.
        teacher_score: In a cache's frames without annotations the teacher's own detections of at
            least this score are the boxes, wherever values belong to boxes.
    """

    labelled: float = Field(1.0, gt=0, le=1)
    labelled_seed: int = Field(0, ge=0)
    teacher_score: float = Field(0.3, gt=0, lt=1)

    def hidden_score(self, token: str) -> float | None:
        """``Frame.teacher_score`` of a frame: None if its annotations may be read."""
        shown = self.labelled == 1 or rank(token, self.labelled_seed) < self.labelled
        return None if shown else self.teacher_score

    @property
    def hidden_filter(self) -> dict[str, Any]:
        """Its part of the ground-truth filter; nothing where all frames are labelled."""
        if self.labelled == 1:
            return {}
        return {
            "labelled": self.labelled,
            "labelled_seed": self.labelled_seed,
            "teacher_score": self.teacher_score,
        }


def rank(token: str, seed: int) -> float:
    """Where a frame stands among all, evenly spread over [0, 1): those below a fraction are in."""
    digest = hashlib.sha256(f"{seed}:{token}".encode()).digest()[:HASH_BYTES]
    # 53 bits: a float holds them exactly, so the rank stays below 1.
    return (int.from_bytes(digest) >> 11) / 2**53


def labelled_frames(frames: Sequence[Frame]) -> list[Frame]:
    """Those whose annotations may be seen.

    Raises:
        DataError: None of them.
    """
    found = [frame for frame in frames if not frame.unlabelled]
    if not found:
        raise DataError(
            f"none of {len(frames)} frames is labelled: raise data.labelled, or choose another "
            "data.labelled_seed"
        )
    return found
