"""The ray caster against hand-worked cases and a slow cast of every ray at every box."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from frames.world.config import WorldConfig
from frames.world.raycast import Placement, Solids, azimuth_windows, camera_windows, cast
from frames.world.sensors import MOUNTS, Sensor, camera, lidar, spinning

CONFIG = WorldConfig(image_size=(24, 66), beams=12, azimuth_steps=90)
CAMERA, LIDAR = camera(MOUNTS[0], CONFIG.image_size), lidar(CONFIG)
TURNED = spinning("turned", LIDAR.ego_from_sensor, LIDAR.elevations, 90, range(-20, 70))


def _placement(poses: np.ndarray, sensor: Sensor) -> Placement:
    """Upright solids at (x, y, z, yaw) in the ego frame, seen from the sensor."""
    sensor_from_ego = sensor.ego_from_sensor.inverse()
    cos, sin, zero = np.cos(poses[:, 3]), np.sin(poses[:, 3]), np.zeros(len(poses))
    turns = np.stack([cos, -sin, zero, sin, cos, zero, zero, zero, zero + 1], 1).reshape(-1, 3, 3)
    return Placement(
        (sensor_from_ego.rotation @ turns).astype(np.float32),
        sensor_from_ego.apply(poses[:, :3]).astype(np.float32),
    )


def _windows(solids: Solids, placement: Placement, sensor: Sensor) -> np.ndarray:
    corners = placement.apply(solids.corners())
    rows, cols = sensor.ground.shape
    if sensor.image_from_cam is None:
        return azimuth_windows(corners, sensor.elevations, cols, sensor.start)
    return camera_windows(corners, sensor.image_from_cam, (rows, cols))


def _everything(count: int, sensor: Sensor) -> np.ndarray:
    rows, cols = sensor.ground.shape
    return np.array([[solid, 0, rows, 0, cols] for solid in range(count)])


def test_a_box_straight_ahead_by_hand():
    # A cube of 2 m whose centre is 10 m in front of the camera: its near face is 9 m away.
    solids = Solids.gather([np.array([[0, 0, 0, 1, 1, 1]], dtype=np.float32)])
    x, y, z = CAMERA.ego_from_sensor.translation
    placement = _placement(np.array([[x + 10, y, z, 0.0]]), CAMERA)
    ahead = np.array([[[0.0, 0.0, 1.0], [0.0, 0.2, math.sqrt(0.96)]]], dtype=np.float32)
    hits = cast(
        ahead, np.full((1, 2), np.inf, np.float32), solids, placement, np.array([[0, 0, 1, 0, 2]])
    )
    assert hits.depth[0, 0] == pytest.approx(9.0)
    assert hits.part.tolist() == [[0, -1]]
    # The face towards the solid's own negative x (axis 0), met head on.
    assert hits.face[0, 0] == 0
    assert hits.cosine[0, 0] == pytest.approx(1.0)
    assert hits.unhidden.tolist() == [1]


def test_the_nearer_box_hides_the_farther_one():
    cube = np.array([[0, 0, 0, 1, 1, 1]], dtype=np.float32)
    solids = Solids.gather([cube, cube])
    x, y, z = CAMERA.ego_from_sensor.translation
    placement = _placement(np.array([[x + 10, y, z, 0.0], [x + 6, y, z, 0.0]]), CAMERA)
    ray = np.array([[[0.0, 0.0, 1.0]]], dtype=np.float32)
    windows = np.array([[0, 0, 1, 0, 1], [1, 0, 1, 0, 1]])
    hits = cast(ray, np.full((1, 1), np.inf, np.float32), solids, placement, windows)
    assert hits.depth[0, 0] == pytest.approx(5.0)
    assert hits.part[0, 0] == 1
    assert hits.unhidden.tolist() == [1, 1]


def test_the_ground_under_the_lidar():
    # The lowest beam looks 30 degrees down from 1.84 m: it meets the ground after 3.68 m.
    assert LIDAR.ground[0] == pytest.approx(3.68)
    assert np.isinf(LIDAR.ground[-1]).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([CAMERA, LIDAR, TURNED]))
def test_windows_lose_no_hit(seed: int, sensor: Sensor):
    rng = np.random.default_rng(seed)
    shapes = [
        np.concatenate([rng.uniform(-2, 2, (k, 3)), rng.uniform(0.05, 2, (k, 3))], axis=1)
        for k in rng.integers(1, 4, 8)
    ]
    solids = Solids.gather(shapes)
    # Some lie behind the camera, across its image plane, or across the LiDAR's seam.
    poses = rng.uniform([-12, -12, -1, -4], [12, 12, 3, 4], (8, 4))
    placement = _placement(poses, sensor)
    fast = cast(
        sensor.directions, sensor.ground, solids, placement, _windows(solids, placement, sensor)
    )
    slow = cast(sensor.directions, sensor.ground, solids, placement, _everything(8, sensor))
    np.testing.assert_array_equal(fast.depth, slow.depth)
    np.testing.assert_array_equal(fast.part, slow.part)
    np.testing.assert_array_equal(fast.face, slow.face)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
@example(5070968)  # a ray cuts an edge off
def test_cast_agrees_with_marching_along_the_rays(seed: int):
    rng = np.random.default_rng(seed)
    shapes = [np.concatenate([rng.uniform(-1, 1, 3), rng.uniform(0.5, 2, 3)])[None] for _ in "abc"]
    solids = Solids.gather(shapes)
    angle = rng.uniform(0, 2 * math.pi, 3)
    poses = np.stack([9 * np.cos(angle), 9 * np.sin(angle), np.ones(3), 3 * angle], axis=1)
    placement = _placement(poses, LIDAR)
    hits = cast(LIDAR.directions, LIDAR.ground, solids, placement, _everything(3, LIDAR))
    rows, cols = np.nonzero(hits.part >= 0)
    for part, depth, ray in zip(
        hits.part[rows, cols], hits.depth[rows, cols], LIDAR.directions[rows, cols], strict=True
    ):
        # A little before the hit lies outside every box; a little behind it lies inside the one
        # hit, or as little beyond it where the ray cuts an edge.
        inside = [
            (
                np.abs(
                    (ray * (depth + step) - placement.translation) @ placement.rotation[k]
                    - solids.centre[k]
                )[k]
                <= solids.half[k] + max(step, 0)
            ).all()
            for step in (-2e-4, 2e-4)
            for k in range(3)
        ]
        assert not any(inside[:3])
        assert inside[3 + part]
