"""A row is one view of a frame as the teacher saw it: who it is, and what it holds.

The views of a frame are rows side by side: row = frame * views + view.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float32, Float64

from frames.augment import BevAugment
from frames.boxes import Boxes3D
from frames.frame import Frame
from store.errors import RowValueError
from store.fingerprint import Augmentation

MAX_NAME_BYTES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class RowIdentity:
    """Who a row is; all of it is known before the teacher runs.

    Attributes:
        token: Frame id; a row is found by this and its view, by nothing else.
        scene: Name of the scene.
        timestamp_us: Microseconds since the epoch.
        global_from_ego: Ego pose, homogeneous.
        prev: Row of the same view of the frame before it in its scene, -1 if the store has none.
            Its augmentation is its own.
        next: Row of the frame after it, likewise.
        view: Number of the view, from 0.
        bev_augment: Matrix of its ``BevAugment``; the identity where the teacher saw the frame as
            it is.
    """

    token: str
    scene: str
    timestamp_us: int
    global_from_ego: Float64[npt.NDArray[np.float64], "4 4"]
    prev: int = -1
    next: int = -1
    view: int = 0
    bev_augment: Float32[npt.NDArray[np.float32], "2 3"] = field(
        default_factory=lambda: np.eye(2, 3, dtype=np.float32)
    )

    @property
    def augment(self) -> BevAugment:
        """How the teacher saw the frame."""
        return BevAugment(torch.from_numpy(self.bev_augment.copy()))


@dataclass(frozen=True, slots=True, kw_only=True)
class RowValues:
    """What the teacher said of one view of a frame.

    Attributes:
        token: Frame id.
        gt: Ground truth as the teacher saw it: augmented as its points.
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
        view: Number of the view.
        augment: How the teacher saw the frame; ground truth and arrays are in that BEV frame.
        gt: Ground truth as the teacher saw it.
        arrays: By array name; copies the caller owns.
    """

    token: str
    view: int
    augment: BevAugment
    gt: Boxes3D
    arrays: dict[str, npt.NDArray[Any]]


def rows_of_frames(
    frames: Sequence[Frame], augmentation: Augmentation = "canonical"
) -> list[RowIdentity]:
    """The rows of these frames, in order; neighbours outside the sequence count as none."""
    drawn = None if augmentation == "canonical" else augmentation
    views = 1 if drawn is None else drawn.views
    first = {frame.token: views * index for index, frame in enumerate(frames)}

    def neighbour(token: str, view: int) -> int:
        return first[token] + view if token in first else -1

    return [
        RowIdentity(
            token=frame.token,
            scene=frame.scene,
            timestamp_us=frame.timestamp_us,
            global_from_ego=frame.global_from_ego.matrix,
            prev=neighbour(frame.prev, view),
            next=neighbour(frame.next, view),
            view=view,
            bev_augment=augment.matrix.numpy(),
        )
        for frame in frames
        for view in range(views)
        for augment in [drawn.draw(frame.token, view) if drawn else BevAugment.identity()]
    ]


def token_hash(tokens: Iterable[str]) -> str:
    """sha256 of the ordered tokens, one a line."""
    return hashlib.sha256("".join(f"{token}\n" for token in tokens).encode()).hexdigest()


def check_identities(rows: Sequence[RowIdentity], views: int) -> None:
    """Refuse rows that could not be told apart or stored.

    Args:
        rows: In order.
        views: Rows of each frame.

    Raises:
        RowValueError: No rows, a token twice, views of a frame that are not side by side, an empty
            or overlong name, a neighbour off the end.
    """
    if not rows:
        raise RowValueError("there are no rows to store: expected at least one frame")
    _check_order(rows, views)
    for row in rows:
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


def _check_order(rows: Sequence[RowIdentity], views: int) -> None:
    seen: set[str] = set()
    for index, row in enumerate(rows):
        if index % views == 0:
            if row.token in seen:
                raise RowValueError(f"token {row.token!r} comes twice; a row is found by its token")
            seen.add(row.token)
        if row.view != index % views or row.token != rows[index - index % views].token:
            raise RowValueError(
                f"row {index} is view {row.view} of {row.token!r}; expected the {views} views of "
                "each frame side by side, numbered from 0"
            )
    if len(rows) % views:
        raise RowValueError(f"{len(rows)} rows are not {views} views of every frame")


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
