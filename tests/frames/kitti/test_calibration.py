from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from frames.camera_view import image_from_ego, project_ego
from frames.errors import DataError
from frames.kitti.calibration import (
    EGO_FROM_RECT,
    read_calibration,
    write_calibration,
)
from tests.frames.kitti.real_kitti import KITTI, real, real_files
from tests.frames.kitti.tiny_kitti import SIZE, calibration


def test_pseudo_lidar_is_the_rectified_camera_turned():
    in_rect = np.array([[1.0, 2.0, 3.0]])
    assert EGO_FROM_RECT.apply(in_rect).tolist() == [[3.0, -1.0, -2.0]]


def test_velodyne_points_move_by_the_calibration_alone():
    # The Velodyne is 0.3 m behind the cameras.
    moved = calibration().ego_from_lidar.apply(np.array([[10.0, 1.0, 0.5]]))
    assert moved == pytest.approx(np.array([[9.7, 1.0, 0.5]]))


def test_velodyne_points_are_rectified():
    """Rectified by a quarter turn about z_cam: what lay to the right now lies below."""
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    turned = replace(calibration(), rect_from_cam=turn)
    moved = turned.ego_from_lidar.apply(np.array([[10.0, -1.0, 0.0]]))
    assert moved == pytest.approx(np.array([[9.7, 0.0, -1.0]]))


@pytest.mark.parametrize(("index", "u"), [(2, 18 + 20 * -0.95 / 10), (3, 18 + 20 * -1.45 / 10)])
def test_a_point_in_both_images_by_hand(index: int, u: float):
    """1 m left of the origin: 0.95 m left of the left camera, 1.45 m left of the right one."""
    camera = calibration().camera(index, Path("none.png"), SIZE)
    pixels, depth = project_ego(camera, torch.tensor([[10.0, 1.0, 0.5]]))
    assert (camera.name, camera.size) == (f"image_{index}", SIZE)
    torch.testing.assert_close(pixels, torch.tensor([[u, 9 - 20 * 0.5 / 10]]))
    torch.testing.assert_close(depth, torch.tensor([10.0]))


def test_a_file_is_read_as_it_was_written(tmp_path: Path):
    path = tmp_path / "calib.txt"
    write_calibration(path, calibration())
    back = read_calibration(path)
    assert np.array_equal(back.image_from_rect, calibration().image_from_rect)
    assert np.array_equal(back.cam_from_lidar.matrix, calibration().cam_from_lidar.matrix)


def test_the_imu_may_be_absent(tmp_path: Path):
    path = tmp_path / "calib.txt"
    write_calibration(path, calibration())
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:6]))
    assert read_calibration(path).lidar_from_imu is None
    write_calibration(path, read_calibration(path))
    assert "Tr_imu_to_velo" not in path.read_text()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("R0_rect:", "R_rect:", r"lacks \['R0_rect'\]"),
        ("P1: 2.0", "P1: two 2.0", "P1 in .*could not convert"),
        ("P1: 2.0", "P1: 1 2.0", "P1 in .* holds 13 numbers, 13 of them finite, not 3 x 4"),
        ("P1: 2.000000000000e+01", "P1: nan", "12 numbers, 11 of them finite"),
        ("P1: 2.0", "P1: -2.0", "not that of a rectified camera"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, old: str, new: str, message: str):
    path = tmp_path / "000007.txt"
    write_calibration(path, calibration())
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=message) as error:
        read_calibration(path)
    assert "000007.txt" in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"cannot read .*000007\.txt .*data_object_calib\.zip"):
        read_calibration(tmp_path / "000007.txt")


@real
def test_real_files_are_written_as_they_were(tmp_path: Path):
    for path in real_files("calib"):
        write_calibration(tmp_path / path.name, read_calibration(path))
        assert (tmp_path / path.name).read_text() == path.read_text()


@real
def test_a_camera_holds_all_of_a_real_projection_matrix():
    read = read_calibration(KITTI / "training/calib/000107.txt")
    for index in range(4):
        camera = read.camera(index, Path("none.png"), (375, 1242))
        rect = image_from_ego(camera) @ EGO_FROM_RECT.matrix
        np.testing.assert_allclose(rect, read.image_from_rect[index], atol=1e-10)
