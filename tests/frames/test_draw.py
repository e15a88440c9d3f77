import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from frames.detection_classes import DETECTION_CLASSES
from frames.draw import Layer, box_segments, draw_frame
from frames.frame import Camera, Frame
from frames.geometry import SE3
from frames.grid import BEVGrid
from frames.loading import load_points
from frames.nuscenes import NuScenesConfig, read_frames
from tests.frames.real_data import real, real_config
from tests.frames.tiny_nuscenes import CAMERA_FORWARD, VERSION, write_tiny

GRID = BEVGrid(x_min=-51.2, y_min=-51.2, cell_size=0.8, shape=(128, 128))


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Frame]:
    root = write_tiny(tmp_path_factory.mktemp("tiny"))
    names = ("scene-0061", "scene-0103")
    configs = [NuScenesConfig(root=root, version=VERSION, split=name) for name in names]
    return {name: read_frames(c)[0] for name, c in zip(names, configs, strict=True)}


def camera() -> Camera:
    """Looks forward from the ego origin, 100 pixels a unit slope."""
    return Camera(
        name="CAM_FRONT",
        path=Path("unused.jpg"),
        size=(100, 200),
        image_from_cam=np.array([[100.0, 0, 100], [0, 100, 50], [0, 0, 1]]),
        ego_from_cam=SE3.from_quaternion(CAMERA_FORWARD, [0.0, 0.0, 0.0]),
    )


def test_a_box_ahead_has_twelve_edges_between_its_projected_corners():
    """2 m cube at 5 m: the near face at 4 m spans 25 pixels either way, the far one 100 / 6."""
    box = torch.tensor([[5.0, 0, 0, 2, 2, 2, 0, 0, 0]])
    pixels, owner, edges = box_segments(box, camera())
    assert owner.tolist() == [0] * 12
    assert edges.tolist() == list(range(12))
    near, far = 25.0, 100 / 6
    expected = {(100 + u * s, 50 + v * s) for s in (near, far) for u in (-1, 1) for v in (-1, 1)}
    found = {(round(u, 3), round(v, 3)) for u, v in pixels.reshape(-1, 2).tolist()}
    assert found == {(round(u, 3), round(v, 3)) for u, v in expected}


def test_a_box_behind_has_no_edges():
    box = torch.tensor([[-5.0, 0, 0, 2, 2, 2, 0, 0, 0]])
    assert len(box_segments(box, camera())[0]) == 0


def test_edges_are_cut_at_the_near_plane():
    """A wall beside the car from 5 m behind to 5 m ahead, its near face 1 m to the right."""
    box = torch.tensor([[0.0, -2, 0, 10, 2, 2, 0, 0, 0]])
    pixels, _, edges = box_segments(box, camera())
    # The rear face is behind: its four edges are gone, the four lengthwise ones cut at 0.1 m.
    assert sorted(edges.tolist()) == [0, 1, 3, 4, 5, 7, 8, 9]
    along = pixels[torch.isin(edges, torch.tensor([3, 7]))]
    assert sorted({round(u) for u in along[..., 0].flatten().tolist()}) == [120, 1100]
    assert pixels.isfinite().all()


def test_every_segment_knows_its_box():
    boxes = torch.tensor([[-5.0, 0, 0, 2, 2, 2, 0, 0, 0], [9.0, 0, 0, 2, 2, 2, 1, 0, 0]])
    _, owner, _ = box_segments(boxes, camera())
    assert owner.unique().tolist() == [1]


@pytest.mark.parametrize(("scene", "cameras"), [("scene-0061", 1), ("scene-0103", 0)])
def test_a_picture_shows_every_layer(
    frames: dict[str, Frame], tmp_path: Path, scene: str, cameras: int
):
    frame = frames[scene]
    assert len(frame.cameras) == cameras
    names = tuple(DETECTION_CLASSES[label] for label in frame.boxes.labels)
    layers = [
        Layer(name="truth", colour="#00ff00", boxes=frame.boxes.values, names=names),
        Layer(
            name="student",
            colour="#ff0000",
            boxes=frame.boxes.values + torch.tensor([9.0] + [0.0] * 8),
            names=names,
            scores=torch.ones(len(frame.boxes)),
        ),
    ]
    path = tmp_path / "frame.png"
    draw_frame(frame, path, points=load_points(frame), layers=layers, grid=GRID)
    shown = np.asarray(Image.open(path).convert("RGB")).astype(int)
    green = (shown[..., 1] > 200) & (shown[..., [0, 2]] < 60).all(-1)
    red = (shown[..., 0] > 200) & (shown[..., 1:] < 60).all(-1)
    assert green.sum() > 50
    assert red.sum() > 50


def test_boxes_stand_where_the_plane_says(frames: dict[str, Frame], tmp_path: Path):
    """One box ahead, left: above and left of the plane's middle."""
    frame = frames["scene-0103"]
    box = torch.tensor([[25.6, 25.6, 0, 8, 8, 2, math.pi / 4, 0, 0]])
    layer = Layer(name="x", colour="#ff0000", boxes=box)
    path = tmp_path / "plane.png"
    draw_frame(frame, path, points=torch.zeros(0, 5), layers=[layer], grid=GRID)
    shown = np.asarray(Image.open(path).convert("RGB")).astype(int)
    height, width = shown.shape[:2]
    rows, columns = np.nonzero((shown[..., 0] > 200) & (shown[..., 1:] < 90).all(-1))
    on_plane = rows < 0.9 * height
    assert rows[on_plane].mean() == pytest.approx(0.29 * height, abs=0.04 * height)
    assert columns[on_plane].mean() == pytest.approx(0.26 * width, abs=0.04 * width)


def test_unsure_boxes_are_fainter():
    boxes = torch.zeros(3, 9)
    scores = torch.tensor([0.0, 0.5, 1.0])
    layer = Layer(name="x", colour="red", boxes=boxes, scores=scores)
    np.testing.assert_allclose(layer.opacity, [0.25, 0.625, 1.0])
    np.testing.assert_allclose(Layer(name="x", colour="red", boxes=boxes).opacity, [1, 1, 1])


@real
def test_real_boxes_project_into_the_cameras_mmdet3d_saw_them_in():
    """Every box of the real frame shows in some camera, and the truck ahead in CAM_FRONT."""
    frame = read_frames(real_config("scene-0061"))[0]
    seen: dict[str, set[int]] = {}
    for cam in frame.cameras:
        pixels, owner, _ = box_segments(frame.boxes.values, cam)
        limit = torch.tensor([cam.size[1], cam.size[0]])
        inside = ((pixels >= 0) & (pixels < limit)).all(-1).any(-1)
        seen[cam.name] = set(owner[inside].tolist())
    assert set.union(*seen.values()) == set(range(len(frame.boxes)))
    trucks = (frame.boxes.labels == 1).nonzero().flatten().tolist()
    nearest = min(trucks, key=lambda index: float(frame.boxes.values[index, :2].norm()))
    assert nearest in seen["CAM_FRONT"]
