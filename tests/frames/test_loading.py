from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.utils.data_classes import LidarPointCloud
from PIL import Image

from frames.errors import DataError
from frames.frame import Frame
from frames.geometry import SE3
from frames.loading import load_images, load_points
from frames.nuscenes import NuScenesConfig, open_tables, read_frames
from tests.frames.real_data import edited_copy, real, real_config
from tests.frames.tiny_nuscenes import POINTS, VERSION, write_tiny

POINT_FILE = "samples/LIDAR_TOP/lidar-a0.pcd.bin"
IMAGE_FILE = "samples/CAM_FRONT/a0.jpg"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tree")


def tiny_frames(root: Path) -> list[Frame]:
    return read_frames(NuScenesConfig(root=root, version=VERSION, split="tiny_train"))


def devkit_points(config: NuScenesConfig, token: str, ego_from_lidar: SE3) -> torch.Tensor:
    """What the devkit gathers, moved from the key sweep's sensor to the ego frame."""
    tables = open_tables(config)
    cloud, lags = LidarPointCloud.from_file_multisweep(
        tables, tables.get("sample", token), "LIDAR_TOP", "LIDAR_TOP", config.sweeps
    )
    xyz = ego_from_lidar.apply(cloud.points[:3].T.astype(np.float64))
    return torch.from_numpy(np.concatenate([xyz, cloud.points[3:].T, lags.T], axis=1))


def test_points_are_in_the_ego_frame_without_those_on_the_roof(tiny: Path):
    points = load_points(tiny_frames(tiny)[1])
    # The LiDAR stands at (1, 0, 2); the car drove 1 m from each sweep to the next.
    rows = [[6, 0, 0, 100, 0.0], [1.5, 20, 3, 255, 0.0]]
    rows += [[5, 0, 0, 100, 0.25], [0.5, 20, 3, 255, 0.25]]
    rows += [[4, 0, 0, 100, 0.5], [-0.5, 20, 3, 255, 0.5]]
    expected = torch.tensor(rows, dtype=torch.float32)
    torch.testing.assert_close(points, expected)


def test_the_roof_square_can_be_switched_off(tiny: Path):
    assert len(load_points(tiny_frames(tiny)[0], min_distance=0.0)) == len(POINTS)


def test_points_equal_the_devkits(tiny: Path):
    config = NuScenesConfig(root=tiny, version=VERSION, split="tiny_train", sweeps=2)
    frame = read_frames(config)[1]
    expected = devkit_points(config, "a1", frame.sweeps[0].ego_from_lidar)
    torch.testing.assert_close(load_points(frame).double(), expected, atol=1e-4, rtol=0)


@real
def test_points_of_two_real_sweeps_equal_the_devkits(tmp_path: Path):
    """The real sweep lies after its key frame, so the two change places."""

    def swap_key(rows: list[dict[str, Any]]) -> None:
        (sweep,) = [row for row in rows if not row["is_key_frame"]]
        (key,) = [row for row in rows if row["token"] == sweep["prev"]]
        key["is_key_frame"], sweep["is_key_frame"] = False, True

    config = real_config("scene-0103", root=edited_copy(tmp_path, "sample_data", swap_key))
    frame = read_frames(config)[0]
    assert [sweep.time_lag for sweep in frame.sweeps] == pytest.approx([0, 0.050319], abs=1e-6)
    expected = devkit_points(config, frame.token, frame.sweeps[0].ego_from_lidar)
    points = load_points(frame)
    assert points.shape[0] > 40_000
    torch.testing.assert_close(points.double(), expected, atol=1e-4, rtol=0)


@real
def test_real_points_fill_their_real_boxes():
    """Every box holds the LiDAR points its annotation counts (sensor noise aside)."""
    config = real_config("scene-0061")
    frame = read_frames(config)[0]
    tables = open_tables(config)
    rows = [
        tables.get("sample_annotation", token)
        for token in tables.get("sample", frame.token)["anns"]
    ]
    counts = [
        row["num_lidar_pts"]
        for row in rows
        if category_to_detection_name(row["category_name"])
        and row["num_lidar_pts"] + row["num_radar_pts"] > 0
    ]
    xyz = load_points(frame, min_distance=0.0)[:, :3]
    for box, count in zip(frame.boxes.values, counts, strict=True):
        local = SE3.from_yaw(float(box[6]), box[:3].tolist()).inverse().apply(xyz.numpy())
        inside = (np.abs(local) <= box[3:6].numpy() / 2).all(axis=1).sum()
        # The yaw-only box leaves out the car's own pitch and roll: a rim of points may differ.
        assert abs(inside - count) <= max(2, 0.15 * count)


def test_images_are_rgb_in_the_order_of_the_cameras(tiny: Path):
    (image,) = load_images(tiny_frames(tiny)[0])
    assert (image.mode, image.size) == ("RGB", (32, 20))
    assert np.abs(np.asarray(image).mean((0, 1)) - (200, 30, 60)).max() < 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes, not a positive multiple of 20"),
        (b"\0" * 47, "47 bytes, not a positive multiple of 20"),
        (np.full(10, np.nan, dtype=np.float32).tobytes(), "not finite"),
    ],
)
def test_a_damaged_point_file_is_named(tiny: Path, content: bytes, message: str):
    (tiny / POINT_FILE).write_bytes(content)
    with pytest.raises(DataError, match=rf"frame a0: cannot use .*{POINT_FILE}: .*{message}"):
        load_points(tiny_frames(tiny)[0])


def test_a_missing_sweep_is_named(tiny: Path):
    (tiny / "sweeps/LIDAR_TOP/sweep.pcd.bin").unlink()
    with pytest.raises(DataError, match=r"frame a1: cannot use .*No such file.*fewer sweeps"):
        load_points(tiny_frames(tiny)[1])


@pytest.mark.parametrize("kept", [0, 10, 400])
def test_a_damaged_image_is_named(tiny: Path, kept: int):
    path = tiny / IMAGE_FILE
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=rf"frame a0: cannot use .*{IMAGE_FILE}"):
        load_images(tiny_frames(tiny)[0])


def test_an_image_of_another_size_is_named(tiny: Path):
    Image.new("RGB", (16, 10)).save(tiny / IMAGE_FILE)
    with pytest.raises(DataError, match="10 x 16 pixels, not 20 x 32"):
        load_images(tiny_frames(tiny)[0])
