"""Scenes: streets, motion, nothing inside anything, fronts that differ from backs."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frames.detection_classes import DETECTION_CLASSES
from frames.world.catalogue import COLOURS, KINDS
from frames.world.collision import touches
from frames.world.config import WorldConfig
from frames.world.road import Road
from frames.world.scene import EGO_CENTRE_AHEAD, EGO_SIZE, Scene, build_scene
from frames.world.sensors import MOUNTS, camera, lidar
from frames.world.shapes import SHAPES, draw_shape
from frames.world.tracks import LEAD, STEP, at, distance, opposite, turning
from frames.world.views import CAMERA_SIGHT, ego_pose, image, look, points

CONFIG = WorldConfig(frames_per_scene=8)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return build_scene(CONFIG, "world_train", 0)


@given(
    st.floats(-150, 250), st.floats(-30, 30), st.sampled_from([-1 / 90, 1 / 90, 1 / 600]),
    st.floats(-3, 3),
)  # fmt: skip
def test_street_coordinates_round_trip(along: float, left: float, curvature: float, heading: float):
    road = Road((1000.0, 500.0), heading, curvature, 0.0)
    if abs(along * curvature) > 3:
        return
    x, y, _ = road.to_global(np.array([along, left, 0.0]))
    found = road.from_global(np.array([x]), np.array([y]))
    np.testing.assert_allclose(np.ravel(found), [along, left], atol=1e-6)


def test_a_quarter_turn_by_hand():
    # After a quarter of a circle of radius 2 to the left around a corner at (10, -1).
    end = turning(np.array([math.pi]), (10.0, -1.0), 2.0, 1)[0]
    np.testing.assert_allclose(end, [10, 1, math.pi / 2], atol=1e-12)
    np.testing.assert_allclose(opposite(end[None], 5.0)[0], [0, -1, 1.5 * math.pi], atol=1e-12)


def test_braking_ends_at_a_stop():
    # 2 m/s braked with 1 m/s2 stops after 2 s and 2 m.
    np.testing.assert_allclose(distance(np.array([1.0, 2.0, 9.0]), 2.0, -1.0), [1.5, 2.0, 2.0])


def test_poses_between_two_clock_ticks():
    states = np.array([[[0.0, 0, 0], [1, 2, 0.2], [2, 2, 0.2]]])
    np.testing.assert_allclose(at(states, -LEAD + STEP / 2)[0], [0.5, 1, 0.1])


@pytest.mark.parametrize(("shift", "expected"), [(1.99, True), (2.01, False)])
def test_touching_rectangles_by_hand(shift: float, expected: bool):
    # Two 2 x 1 m rectangles, nose to nose; the second turned by 180 degrees.
    other = np.array([[[shift, 0.0, math.pi]]])
    hits = touches(np.zeros((1, 3)), np.array([2.0, 1.0]), other, np.array([[2.0, 1.0]]), 0.0)
    assert hits.tolist() == [expected]


@pytest.mark.parametrize(("yaw", "expected"), [(0.0, True), (math.pi / 4, False)])
def test_only_the_turned_one_may_part_them(yaw: float, expected: bool):
    # Squares of 2 m, 1.9 m apart along both axes: their corners overlap unless one stands on edge.
    other = np.array([[[1.9, 1.9, yaw]]])
    square = np.array([2.0, 2.0])
    assert touches(np.zeros((1, 3)), square, other, square[None], 0.0).tolist() == [expected]


def test_nothing_touches_anything(scene: Scene):
    sizes = np.array([body.size[:2] for body in scene.bodies])
    for number in range(1, len(scene.bodies)):
        hits = touches(
            scene.states[number], sizes[number], scene.states[:number], sizes[:number], 0.0
        )
        assert not hits.any(), (scene.bodies[number].kind, np.flatnonzero(hits))


def test_nothing_touches_the_ego_car(scene: Scene):
    centre = scene.ego.copy()
    centre[:, :2] += EGO_CENTRE_AHEAD * np.stack([np.cos(centre[:, 2]), np.sin(centre[:, 2])], 1)
    sizes = np.array([body.size[:2] for body in scene.bodies])
    assert not touches(centre, EGO_SIZE, scene.states, sizes, 0.3).any()


def test_all_ten_classes_within_a_few_scenes():
    assert set(KINDS) == set(DETECTION_CLASSES)
    scenes = [build_scene(CONFIG, "world_train", index) for index in range(3)]
    kinds = {body.kind for scene in scenes for body in scene.bodies if body.category}
    assert kinds == set(DETECTION_CLASSES)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_shapes_stay_inside_their_box(name: str):
    size = np.array([4.0, 2.0, 1.5])
    for seed in range(5):
        parts = draw_shape(name, size, np.random.default_rng(seed)).parts
        low, high = parts[:, :3] - parts[:, 3:], parts[:, :3] + parts[:, 3:]
        assert (parts[:, 3:] > 0).all()
        assert (np.abs(np.stack([low, high])[..., :2]) <= size[:2] / 2).all()
        assert low[:, 2].min() == 0
        assert high[:, 2].max() <= size[2]


@pytest.mark.parametrize("name", ["car", "truck", "bus", "ridden_bicycle", "construction_vehicle"])
def test_front_and_back_differ(name: str):
    shape = draw_shape(name, np.array([4.0, 2.0, 1.5]), np.random.default_rng(0))
    turned = shape.parts * np.array([-1, 1, 1, 1, 1, 1])
    as_drawn = {tuple(row) for row in shape.parts.round(2).tolist()}
    unmatched = [row for row in turned.round(2).tolist() if tuple(row) not in as_drawn]
    assert len(unmatched) >= 4


def test_cars_show_white_in_front_and_red_behind(scene: Scene):
    for body in scene.bodies:
        if body.kind == "car":
            front = body.shape.colours[body.shape.parts[:, 0].argmax()]
            back = body.shape.colours[body.shape.parts[:, 0].argmin()]
            assert front.min() > 0.9
            assert back[0] > 5 * back[1]


def test_lidar_returns_of_a_body_lie_in_its_box(scene: Scene):
    sensor = lidar(CONFIG)
    view = look(scene, sensor, 1.0, 50.0)
    hits = view.hits
    poses = at(scene.states, 1.0)
    rows, cols = np.nonzero(hits.part >= 0)
    local = sensor.directions[rows, cols] * hits.depth[rows, cols][:, None]
    reached = view.global_from_sensor.apply(local.astype(np.float64))
    owners = scene.solids.owner[hits.part[rows, cols]]
    assert len(set(owners)) > 20
    for owner in set(owners):
        x, y, yaw = poses[owner]
        offset = reached[owners == owner] - [x, y, scene.bodies[owner].size[2] / 2]
        turn = np.array(
            [[math.cos(yaw), -math.sin(yaw), 0], [math.sin(yaw), math.cos(yaw), 0], [0, 0, 1]]
        )
        assert (np.abs(offset @ turn) <= scene.bodies[owner].size / 2 + 1e-3).all()


def test_returns_are_noisy_thinned_and_in_the_formats_units(scene: Scene):
    sensor = lidar(CONFIG)
    view = look(scene, sensor, 1.0, 50.0)
    cloud = points(scene, CONFIG, view, sensor, np.random.default_rng(0))
    sent = int((view.hits.depth < 1.15 * CONFIG.lidar_range).sum())
    assert 0.6 * sent < len(cloud) < 0.95 * sent
    assert cloud.dtype == np.float32
    assert (cloud[:, 3] == cloud[:, 3].round()).all()
    assert 0 <= cloud[:, 3].min() < cloud[:, 3].max() <= 255
    # A beam's elevation is its ring's; noise is along the ray.
    elevation = np.arctan2(cloud[:, 2], np.hypot(cloud[:, 0], cloud[:, 1]))
    np.testing.assert_allclose(elevation, sensor.elevations[cloud[:, 4].astype(int)], atol=1e-4)
    azimuth = np.arctan2(cloud[:, 1], cloud[:, 0]) / (2 * math.pi / CONFIG.azimuth_steps)
    column = azimuth.round().astype(int) % CONFIG.azimuth_steps
    sent_to = view.hits.depth[cloud[:, 4].astype(int), column]
    assert (np.linalg.norm(cloud[:, :3], axis=1) - sent_to).std() == pytest.approx(0.03, rel=0.05)
    ground = cloud[np.abs(cloud[:, 2] + sensor.ego_from_sensor.translation[2]) < 0.2]
    assert len(ground) > 0.2 * len(cloud)


def test_projected_boxes_cover_their_own_pixels(scene: Scene):
    owners_seen = 0
    for mount in MOUNTS:
        sensor = camera(mount, CONFIG.image_size)
        assert sensor.image_from_cam is not None
        view = look(scene, sensor, 1.0, CAMERA_SIGHT)
        cam_from_global = view.global_from_sensor.inverse()
        owner = np.where(view.hits.part >= 0, scene.solids.owner[view.hits.part], -1)
        for number in set(owner[owner >= 0].tolist()):
            x, y, yaw = at(scene.states, 1.0)[number]
            length, width, height = scene.bodies[number].size
            signs = np.array([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (0, 2)]) / 2
            corners = signs * [length, width, height]
            turn = np.array(
                [[math.cos(yaw), -math.sin(yaw), 0], [math.sin(yaw), math.cos(yaw), 0], [0, 0, 1]]
            )
            seen = cam_from_global.apply(corners @ turn.T + [x, y, 0.0])
            if seen[:, 2].min() < 0.5:
                continue
            pixels = (seen / seen[:, 2:]) @ sensor.image_from_cam.T
            rows, cols = np.nonzero(owner == number)
            assert cols.min() >= pixels[:, 0].min() - 1e-3
            assert cols.max() <= pixels[:, 0].max() + 1e-3
            assert rows.min() >= pixels[:, 1].min() - 1e-3
            assert rows.max() <= pixels[:, 1].max() + 1e-3
            owners_seen += 1
    assert owners_seen > 30


def test_the_picture_shows_the_colour_of_what_is_hit(scene: Scene):
    sensor = camera(MOUNTS[0], CONFIG.image_size)
    view = look(scene, sensor, 1.0, CAMERA_SIGHT)
    picture = image(scene, sensor, view, np.random.default_rng(0)).astype(float)
    tails = (scene.colours == np.array(COLOURS["tail"], dtype=np.float32)).all(1)
    red = (view.hits.part >= 0) & tails[view.hits.part] & (view.hits.depth < 25)
    assert red.any()
    assert (picture[red][:, 0] > 1.5 * picture[red][:, 1]).all()
    sky = np.isinf(view.hits.depth)
    assert picture[sky][:, 2].mean() > picture[sky][:, 0].mean()


def test_the_ego_car_drives_its_lane(scene: Scene):
    for time in (0.0, 3.0):
        pose = ego_pose(scene, time)
        x, y, _ = pose.translation
        _, left = scene.road.from_global(np.array([x]), np.array([y]))
        assert left[0] == pytest.approx(-1.75, abs=0.2)
