"""A row is one frame as the teacher saw it: who it is, and what it holds."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float64

from frames.boxes import Boxes3D
from frames.frame import Frame
from store.errors import RowValueError

MAX_NAME_BYTES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class RowIdentity:
    """Who a row is; all of it is known before the teacher runs.

    Attributes:
        token: Frame id; a row is found by nothing else.
        scene: Name of the scene.
        timestamp_us: Microseconds since the epoch.
        global_from_ego: Ego pose, homogeneous.
        prev: Row of the frame before it in its scene, -1 if the store has none.
        next: Row of the frame after it, likewise.
    """

    token: str
    scene: str
    timestamp_us: int
    global_from_ego: Float64[npt.NDArray[np.float64], "4 4"]
    prev: int = -1
    next: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class RowValues:
    """What the teacher said of one frame.

    Attributes:
        token: Frame id.
        gt: Ground truth as the teacher saw it, ego frame.
        arrays: By array name; values at cells and boxes lead with an axis of places.
    """

    token: str
    gt: Boxes3D
    arrays: dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedRow:
    """One row read back.

    Attributes:
        token: Frame id.
        gt: Ground truth as the teacher saw it, ego frame.
        arrays: By array name; copies the caller owns.
    """

    token: str
    gt: Boxes3D
    arrays: dict[str, npt.NDArray[Any]]


def rows_of_frames(frames: Sequence[Frame]) -> list[RowIdentity]:
    """One row a frame, in order; neighbours outside the sequence count as none."""
    row_of = {frame.token: row for row, frame in enumerate(frames)}
    return [
        RowIdentity(
            token=frame.token,
            scene=frame.scene,
            timestamp_us=frame.timestamp_us,
            global_from_ego=frame.global_from_ego.matrix,
            prev=row_of.get(frame.prev, -1),
            next=row_of.get(frame.next, -1),
        )
        for frame in frames
    ]


def token_hash(tokens: Iterable[str]) -> str:
    """sha256 of the ordered tokens, one a line."""
    return hashlib.sha256("".join(f"{token}\n" for token in tokens).encode()).hexdigest()


def check_identities(rows: Sequence[RowIdentity]) -> None:
    """Refuse rows that could not be told apart or stored.

    Raises:
        RowValueError: No rows, a token twice, an empty or overlong name, a neighbour off the end.
    """
    if not rows:
        raise RowValueError("there are no rows to store: expected at least one frame")
    seen: set[str] = set()
    for row in rows:
        if row.token in seen:
            raise RowValueError(f"token {row.token!r} comes twice; a row is found by its token")
        seen.add(row.token)
        for name in (row.token, row.scene):
            if not 0 < len(name.encode()) <= MAX_NAME_BYTES or "\0" in name:
                raise RowValueError(
                    f"{name!r}: a token or scene has 1 to {MAX_NAME_BYTES} bytes, none of them 0"
                )
        if not (-1 <= row.prev < len(rows) and -1 <= row.next < len(rows)):
            raise RowValueError(
                f"row {row.token!r} has neighbours {row.prev} and {row.next}; "
                f"expected -1 or a row below {len(rows)}"
            )


def packed_names(names: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Names as UTF-8, one a row, padded with zero bytes: a string type every reader has.

    Returns:
        uint8 (rows, width of the longest name).
    """
    encoded = [name.encode() for name in names]
    width = max(map(len, encoded))
    joined = b"".join(name.ljust(width, b"\0") for name in encoded)
    return np.frombuffer(joined, np.uint8).reshape(len(names), width)


def unpacked_names(packed: npt.NDArray[np.uint8]) -> tuple[str, ...]:
    """The names that ``packed_names`` packed."""
    names = packed.view(f"S{packed.shape[1]}")[:, 0].tolist()
    return tuple(name.decode() for name in names)
