"""Past frames: found, reused where there are none, seen from the key frame."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from frames.boxes import Boxes3D
from frames.frame import Camera, Frame
from frames.geometry import SE3
from frames.history import History, seen_from


def scene(name: str, count: int) -> list[Frame]:
    """Frames in a row; each stands 2 m further and is turned a little more."""
    return [
        Frame(
            token=f"{name}{k}",
            scene=name,
            timestamp_us=k * 500_000,
            global_from_ego=SE3.from_yaw(0.1 * k, [2.0 * k, 5.0, 1.0]),
            cameras=(
                Camera(
                    name="CAM_FRONT",
                    path=Path("none"),
                    size=(4, 6),
                    image_from_cam=np.eye(3),
                    ego_from_cam=SE3.from_yaw(0.3, [1.0, 0.0, 1.5]),
                ),
            ),
            sweeps=(),
            boxes=Boxes3D.empty(),
            prev=f"{name}{k - 1}" if k else "",
            next=f"{name}{k + 1}" if k + 1 < count else "",
        )
        for k in range(count)
    ]


FRAMES = [*scene("a", 6), *scene("b", 3)]


@pytest.mark.parametrize(
    ("token", "offsets", "expected"),
    [
        ("a5", (-2, -4), ["a3", "a1"]),
        ("a4", (-2, -4), ["a2", "a0"]),
        # A history shorter than asked for: the last offset that there was stands in.
        ("a3", (-2, -4), ["a1", "a1"]),
        ("a3", (-1, -2, -9, -3), ["a2", "a1", "a1", "a0"]),
        # A scene's start has no past but itself, whatever lies before it in the list.
        ("b0", (-2, -4), ["b0", "b0"]),
        ("b1", (-2, -4), ["b1", "b1"]),
        ("a5", (), []),
    ],
)
def test_past_frames(token: str, offsets: tuple[int, ...], expected: list[str]):
    frame = next(frame for frame in FRAMES if frame.token == token)
    assert [past.token for past in History(FRAMES).past(frame, offsets)] == expected


def test_a_past_that_is_not_here_is_as_if_it_had_never_been():
    """A split may begin within a scene, or leave frames out."""
    here = [frame for frame in FRAMES if frame.token not in ("a0", "a3")]
    found = {frame.token: History(here).past(frame, (-1, -2)) for frame in here}
    tokens = {token: [past.token for past in pasts] for token, pasts in found.items()}
    assert tokens["a1"] == ["a1", "a1"]
    assert tokens["a2"] == ["a1", "a1"]
    assert tokens["a4"] == ["a4", "a4"]
    assert tokens["a5"] == ["a4", "a4"]


def test_a_frame_need_not_be_among_those_looked_through():
    assert [past.token for past in History(FRAMES[:3]).past(FRAMES[3], (-1,))] == ["a2"]
    assert [past.token for past in History().past(FRAMES[3], (-1, -2))] == ["a3", "a3"]


def test_a_past_camera_sees_the_world_from_the_key_frames_ego():
    key, past = FRAMES[5], FRAMES[3]
    moved = seen_from(past, key)
    point = np.array([[3.0, -1.0, 12.0]])
    in_global = past.global_from_ego.apply(past.cameras[0].ego_from_cam.apply(point))
    again = key.global_from_ego.apply(moved.cameras[0].ego_from_cam.apply(point))
    np.testing.assert_allclose(again, in_global, atol=1e-9)
    assert moved.token == past.token
    same = seen_from(key, key).cameras[0].ego_from_cam.matrix
    np.testing.assert_allclose(same, key.cameras[0].ego_from_cam.matrix, atol=1e-12)
    assert replace(moved, cameras=past.cameras) == past
