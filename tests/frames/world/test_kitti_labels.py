"""Labels against the scene: each field worked out again from bodies and single renderings."""

import math
from pathlib import Path

import numpy as np
import pytest

from frames.frame import Camera
from frames.kitti.labels import KittiObject
from frames.world.catalogue import KITTI_KINDS, draw_size
from frames.world.config import KittiWorldConfig
from frames.world.kitti_labels import LEAST_PIXELS, label_objects, occlusion
from frames.world.proposals import Body
from frames.world.scene import Scene, build_scene
from frames.world.stereo_rig import stereo_rig
from frames.world.tracks import at
from frames.world.views import CAMERA_SIGHT, View, ego_pose, look

CONFIG = KittiWorldConfig(
    train_scenes=3,
    frames_per_scene=2,
    image_size=(94, 310),
    lidar_range=40.0,
    objects_per_frame=(70, 80),
)
TIME = 0.5
HEIGHT, WIDTH = CONFIG.image_size
FOCAL = CONFIG.focal_length


class Labelled:
    """A scene's frame with its labels, and what they should be."""

    def __init__(self, index: int) -> None:
        rig = stereo_rig(CONFIG)
        self.scene: Scene = build_scene(CONFIG, "world_train", index)
        self.view: View = look(self.scene, rig.left, TIME, CAMERA_SIGHT)
        self.camera: Camera = rig.calibration.camera(2, Path(), CONFIG.image_size)
        self.objects: list[KittiObject] = label_objects(
            self.scene, self.view, self.camera, TIME, CONFIG.lidar_range
        )
        hit = self.view.hits.part
        self.owner = np.where(hit >= 0, self.scene.solids.owner[hit], -1)
        self.intrinsic = rig.left.image_from_cam
        ego = ego_pose(self.scene, TIME)
        # Camera 0 stands 1.03 m before the ego origin, 1.65 m up; pseudo-LiDAR has its axes.
        self.centres = np.array(
            [
                ego.inverse().apply(np.array([x, y, body.size[2] / 2])) - [1.03, 0, 1.65]
                for (x, y, _), body in zip(
                    at(self.scene.states, TIME), self.scene.bodies, strict=True
                )
            ]
        )
        self.yaws = at(self.scene.states, TIME)[:, 2] - ego.yaw

    def pairs(self) -> list[tuple[int, Body, KittiObject]]:
        """Each labelled object with its body."""
        found = []
        for thing in self.objects:
            if thing.box is not None:
                number = int(np.abs(self.centres - thing.box[:3]).sum(1).argmin())
                found.append((number, self.scene.bodies[number], thing))
        return found

    def pixels(self, number: int) -> np.ndarray:
        """(u, v, depth) of the body's eight corners in the left image."""
        signs = np.array([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]) / 2
        offset = signs * self.scene.bodies[number].size
        cos, sin = math.cos(self.yaws[number]), math.sin(self.yaws[number])
        x = offset[:, 0] * cos - offset[:, 1] * sin + self.centres[number, 0]
        y = offset[:, 0] * sin + offset[:, 1] * cos + self.centres[number, 1]
        z = offset[:, 2] + self.centres[number, 2]
        # The left camera stands 0.06 m left of camera 0.
        u = FOCAL * (0.06 - y) / x + 609.5593 / 1242 * WIDTH
        return np.stack([u, FOCAL * -z / x + 172.854 / 375 * HEIGHT, x], axis=1)


@pytest.fixture(scope="module", params=range(3))
def frame(request: pytest.FixtureRequest) -> Labelled:
    return Labelled(request.param)


def test_boxes_are_the_bodies(frame: Labelled):
    assert len(frame.pairs()) > 8
    for number, body, thing in frame.pairs():
        assert thing.box is not None
        np.testing.assert_allclose(thing.box[:3], frame.centres[number], atol=1e-6)
        np.testing.assert_allclose(thing.box[3:6], body.size)
        assert math.remainder(thing.box[6] - frame.yaws[number], math.tau) == pytest.approx(0)
        assert thing.kind == body.category
        assert math.hypot(*thing.box[:2]) <= CONFIG.lidar_range


def test_2d_boxes_and_truncation_of_what_is_before_the_camera(frame: Labelled):
    cut = 0
    for number, _, thing in frame.pairs():
        pixels = frame.pixels(number)
        if pixels[:, 2].min() < 0.1:
            continue
        left, top = pixels[:, :2].min(0)
        right, bottom = pixels[:, :2].max(0)
        inside = max(left, 0), max(top, 0), min(right, WIDTH - 1), min(bottom, HEIGHT - 1)
        assert thing.bbox == pytest.approx(inside, abs=1e-6)
        shown = (inside[2] - inside[0]) * (inside[3] - inside[1])
        assert thing.truncation == pytest.approx(1 - shown / ((right - left) * (bottom - top)))
        cut += thing.truncation > 0.05
    assert cut >= 1


def test_occlusion_from_each_body_rendered_alone(frame: Labelled):
    levels = set()
    rig = stereo_rig(CONFIG)
    for number, body, thing in frame.pairs():
        far = np.full_like(frame.scene.states, 1e6)
        far[number] = frame.scene.states[number]
        alone = Scene(
            **{name: getattr(frame.scene, name) for name in Scene.__slots__} | {"states": far}
        )
        whole = int((look(alone, rig.left, TIME, CAMERA_SIGHT).hits.part >= 0).sum())
        hidden = 1 - (frame.owner == number).sum() / whole
        expected = int(4 * hidden)
        assert thing.occlusion == min(expected, 3), body.kind
        levels.add(expected)
    assert len(levels) >= 3


@pytest.mark.parametrize(
    ("visible", "level"), [(100, 0), (76, 0), (75, 1), (51, 1), (50, 2), (26, 2), (25, 3), (1, 3)]
)
def test_occlusion_by_hand(visible: int, level: int):
    assert occlusion(visible, 100) == level


def test_pixels_lie_in_their_2d_box(frame: Labelled):
    for number, _, thing in frame.pairs():
        rows, cols = np.nonzero(frame.owner == number)
        left, top, right, bottom = thing.bbox
        assert left - 1 < cols.min() <= cols.max() < right + 1
        assert top - 1 < rows.min() <= rows.max() < bottom + 1


def test_what_is_seen_is_labelled_or_dont_care_and_the_rest_left_out(frame: Labelled):
    labelled = {number for number, _, _ in frame.pairs()}
    areas = 0
    for number, body in enumerate(frame.scene.bodies):
        seen = int((frame.owner == number).sum())
        near = float(np.hypot(*frame.centres[number, :2])) <= CONFIG.lidar_range
        rides = body.kind != "bicycle" or body.rider
        wanted = bool(body.category) and near and rides and seen >= LEAST_PIXELS
        assert (number in labelled) == wanted, body
        areas += bool(body.category) and seen > 0 and not wanted
    found = [thing for thing in frame.objects if thing.kind == "DontCare"]
    assert len(found) == areas > 3
    assert frame.objects[-areas:] == found
    assert {(thing.box, thing.truncation, thing.occlusion, thing.alpha) for thing in found} == {
        (None, -1.0, -1, -10.0)
    }


def test_only_kittis_types():
    types = {name for kind in KITTI_KINDS.values() for name in kind.categories}
    assert types == {"", "Car", "Van", "Truck", "Pedestrian", "Cyclist", "Tram", "Misc"}


@pytest.mark.parametrize(
    ("name", "category", "size"),
    [
        # LIGA-Stereo's anchors, and KITTI's mean van.
        ("car", "Car", (3.9, 1.6, 1.56)),
        ("pedestrian", "Pedestrian", (0.8, 0.6, 1.73)),
        ("bicycle", "Cyclist", (1.76, 0.6, 1.73)),
        ("car", "Van", (5.1, 1.9, 2.2)),
    ],
)
def test_sizes_are_kittis(name: str, category: str, size: tuple[float, float, float]):
    rng = np.random.default_rng(0)
    drawn = [draw_size(KITTI_KINDS[name], category, rng) for _ in range(500)]
    np.testing.assert_allclose(np.mean(drawn, axis=0), size, rtol=0.03)
