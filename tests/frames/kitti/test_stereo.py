from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from frames.augment import BevAugment
from frames.camera_view import image_bboxes, image_from_ego, project_ego
from frames.errors import DataError
from frames.frame import Camera
from frames.kitti.calibration import EGO_FROM_RECT, read_calibration
from frames.kitti.config import KittiConfig
from frames.kitti.reader import read_frames
from frames.kitti.stereo import flip_cameras, flip_images, focal_baseline
from frames.loading import load_images, load_points
from tests.frames.kitti.real_kitti import KITTI, real
from tests.frames.kitti.tiny_kitti import SIZE, calibration

MIRROR = BevAugment.compose(flip_y=True)


def pair() -> tuple[Camera, Camera]:
    left, right = (calibration().camera(i, Path(f"{i}.png"), SIZE) for i in (2, 3))
    return left, right


def real_pair() -> tuple[Camera, Camera]:
    read = read_calibration(KITTI / "training/calib/000107.txt")
    left, right = (read.camera(i, Path(f"{i}.png"), (375, 1242)) for i in (2, 3))
    return left, right


def test_disparity_by_hand():
    """0.5 m between the eyes, 20 pixels: a point at 10 m has a disparity of 1 pixel."""
    assert focal_baseline(*pair()) == pytest.approx(10.0)
    point = torch.tensor([[10.0, 0.3, 0.2]])
    left, right = (project_ego(camera, point)[0] for camera in pair())
    torch.testing.assert_close(left - right, torch.tensor([[1.0, 0.0]]))


def test_a_flipped_pair_by_hand():
    """The principal point 18 becomes 39 - 18, and the left eye stands 0.45 m left of the origin."""
    left, right = flip_cameras(*pair())
    assert (left.name, left.path, right.name, right.path) == (
        *("image_2", Path("3.png")),
        *("image_3", Path("2.png")),
    )
    expected = np.array([[20.0, 0, 21, 0], [0, 20, 9, 0], [0, 0, 1, 0]])
    for camera, right_of_origin in ((left, -0.45), (right, 0.05)):
        expected[0, 3] = -20 * right_of_origin
        np.testing.assert_allclose(image_from_ego(camera) @ EGO_FROM_RECT.matrix, expected)


@given(x=st.floats(2, 60), y=st.floats(-30, 30), z=st.floats(-3, 1), yaw=st.floats(-3.1, 3.1))
def test_flipped_boxes_project_to_mirrored_pixels(x: float, y: float, z: float, yaw: float):
    boxes = torch.tensor([[x, y, z, 3.9, 1.6, 1.5, yaw, 0, 0]], dtype=torch.float64)
    left, right = pair()
    new_left, new_right = flip_cameras(left, right)
    for old, new in ((left, new_right), (right, new_left)):
        wanted, seen = image_bboxes(old, boxes)
        found, also_seen = image_bboxes(new, MIRROR.boxes(boxes))
        assert torch.equal(seen, also_seen)
        mirrored = torch.stack(
            [39 - wanted[:, 2], wanted[:, 1], 39 - wanted[:, 0], wanted[:, 3]], dim=1
        )
        if seen:
            torch.testing.assert_close(found, mirrored, atol=1e-5, rtol=0)


def test_flipping_twice_changes_nothing():
    for old, new in zip(pair(), flip_cameras(*flip_cameras(*pair())), strict=True):
        assert (old.name, old.path, old.size) == (new.name, new.path, new.size)
        np.testing.assert_allclose(new.image_from_cam, old.image_from_cam, atol=1e-12)
        np.testing.assert_allclose(new.ego_from_cam.matrix, old.ego_from_cam.matrix, atol=1e-12)


def test_the_new_left_image_is_the_mirrored_right_one():
    images = [Image.new("L", (3, 1)) for _ in range(2)]
    for index, image in enumerate(images):
        image.putdata([10 * index + column for column in range(3)])
    left, right = flip_images(images[0], images[1])
    assert (np.asarray(left).tolist(), np.asarray(right).tolist()) == ([[12, 11, 10]], [[2, 1, 0]])


def test_eyes_of_different_widths_are_refused():
    left, right = pair()
    with pytest.raises(DataError, match=r"2\.png is 40 pixels wide and 3\.png 41"):
        flip_cameras(left, replace(right, size=(20, 41)))


@real
def test_real_focal_length_times_baseline():
    read = read_calibration(KITTI / "training/calib/000107.txt")
    p2, p3 = read.image_from_rect[2], read.image_from_rect[3]
    assert focal_baseline(*real_pair()) == pytest.approx(abs(p2[0, 3] - p3[0, 3]), abs=1e-9)
    # About 0.54 m between the eyes.
    assert focal_baseline(*real_pair()) / p2[0, 0] == pytest.approx(0.5327, abs=1e-3)


@real
def test_real_points_flipped_project_to_mirrored_pixels():
    left, right = real_pair()
    new_left, new_right = flip_cameras(left, right)
    points = torch.tensor([[10.0, 2.0, -1.0], [50.0, -7.0, 0.3]], dtype=torch.float64)
    mirrored = MIRROR.points(points)
    for old, new in ((left, new_right), (right, new_left)):
        wanted, depth = project_ego(old, points)
        found, new_depth = project_ego(new, mirrored)
        torch.testing.assert_close(found[:, 0], 1241 - wanted[:, 0], atol=1e-9, rtol=0)
        torch.testing.assert_close(found[:, 1], wanted[:, 1], atol=1e-9, rtol=0)
        torch.testing.assert_close(new_depth, depth)


@real
def test_the_flipped_calibration_is_that_of_liga():
    """With one K for both eyes, LIGA-Stereo writes K [I | t] with t's x negated, eyes exchanged."""
    read = read_calibration(KITTI / "training/calib/000107.txt")
    intrinsics = read.image_from_rect[2, :, :3].copy()
    for new, old in zip(flip_cameras(*real_pair()), (3, 2), strict=True):
        pose = np.linalg.inv(intrinsics) @ read.image_from_rect[old]
        pose[0, 3] *= -1
        flipped = intrinsics.copy()
        flipped[0, 2] = 1242 - 1 - flipped[0, 2]
        rect = image_from_ego(new) @ EGO_FROM_RECT.matrix
        np.testing.assert_allclose(rect, flipped @ pose, atol=1e-9)


def patch_likeness(
    eyes: list[tuple[Camera, Image.Image]], points: torch.Tensor, shift: float
) -> float:
    """Mean correlation of 9 x 9 patches about each point's pixels in the two images."""
    patches = []
    for (camera, image), offset in zip(eyes, (0.0, shift), strict=True):
        pixels, _ = project_ego(camera, points)
        cols, rows = (pixels + torch.tensor([offset, 0.0])).round().long().unbind(-1)
        grey = torch.from_numpy(np.asarray(image.convert("L"), dtype=np.float32))
        around = torch.arange(-4, 5)
        patch = grey[rows[:, None, None] + around[:, None], cols[:, None, None] + around]
        flat = patch.flatten(1) - patch.flatten(1).mean(1, keepdim=True)
        patches.append(flat / flat.norm(dim=1, keepdim=True).clamp(min=1.0))
    return float((patches[0] * patches[1]).sum(1).mean())


@real
@pytest.mark.parametrize("flipped", [False, True])
def test_real_images_agree_where_the_lidar_says(*, flipped: bool):
    """What both eyes show at a LiDAR point's two pixels is alike, and 8 pixels beside it is not."""
    (frame,) = read_frames(KittiConfig(root=KITTI, split="000107"))
    left, right = frame.cameras
    images = load_images(frame)
    points = load_points(frame)[:, :3]
    if flipped:
        left, right = flip_cameras(left, right)
        images = [*flip_images(images[0], images[1])]
        points = MIRROR.points(points)
    # Away from the images' edges, so that every patch is whole.
    pixels = torch.cat([project_ego(camera, points)[0] for camera in (left, right)], dim=1)
    low, high = torch.tensor([20.0] * 4), torch.tensor([1220.0, 350.0] * 2)
    whole = ((pixels > low) & (pixels < high)).all(1)
    eyes = [(left, images[0]), (right, images[1])]
    assert patch_likeness(eyes, points[whole], 0.0) > 0.6
    assert patch_likeness(eyes, points[whole], 8.0) < 0.35
