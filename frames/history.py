"""The past of key frames, found among frames in memory."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from frames.frame import Frame


class History:
    """Looks frames up by their place before another one.

    Args:
        frames: Among which to look, such as all of a split.
    """

    def __init__(self, frames: Iterable[Frame] = ()) -> None:
        self._frames = {frame.token: frame for frame in frames}

    def past(self, frame: Frame, offsets: Sequence[int]) -> list[Frame]:
        """One frame for each offset, as LabelDistill's data set chooses them.

        An offset before the scene's start, or to a frame that is not here, takes the frame of the
        offset before it in the list; the first one takes the frame itself.

        Args:
            frame: The key frame; it need not be among those looked through.
            offsets: Key frames from it, each below 0: -2 is a second ago in nuScenes.
        """
        found, last = [], frame
        for offset in offsets:
            last = self._before(frame, -offset) or last
            found.append(last)
        return found

    def _before(self, frame: Frame, steps: int) -> Frame | None:
        at: Frame | None = frame
        for _ in range(steps):
            at = self._frames.get(at.prev) if at else None
        return at


def seen_from(past: Frame, key: Frame) -> Frame:
    """A past frame's cameras as they stood in the key frame's ego frame; all else is the past's."""
    key_from_past = key.global_from_ego.inverse() @ past.global_from_ego
    cameras = tuple(
        replace(camera, ego_from_cam=key_from_past @ camera.ego_from_cam) for camera in past.cameras
    )
    return replace(past, cameras=cameras)
