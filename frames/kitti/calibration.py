"""KITTI's calibration files, and what follows from them in the pseudo-LiDAR frame."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from frames.errors import DataError
from frames.frame import Camera
from frames.geometry import AHEAD, SE3

# Pseudo-LiDAR is the rectified camera frame, only turned.
EGO_FROM_RECT = AHEAD
SHAPES = {
    **{f"P{index}": (3, 4) for index in range(4)},
    "R0_rect": (3, 3),
    "Tr_velo_to_cam": (3, 4),
    "Tr_imu_to_velo": (3, 4),
}
OPTIONAL = ("Tr_imu_to_velo",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """One frame's calibration. "Rect" is the rectified frame of camera 0, the labels' own.

    Attributes:
        image_from_rect: P0 to P3, pixels; 2 is the left and 3 the right colour camera.
        rect_from_cam: R0_rect, a rotation.
        cam_from_lidar: Tr_velo_to_cam; camera 0 before it is rectified.
        lidar_from_imu: Tr_imu_to_velo, where the file has it.
    """

    image_from_rect: Float64[np.ndarray, "4 3 4"]
    rect_from_cam: Float64[np.ndarray, "3 3"]
    cam_from_lidar: SE3
    lidar_from_imu: SE3 | None = None

    @property
    def ego_from_lidar(self) -> SE3:
        """Velodyne to pseudo-LiDAR."""
        return EGO_FROM_RECT @ SE3(self.rect_from_cam, np.zeros(3)) @ self.cam_from_lidar

    def camera(self, index: int, path: Path, size: tuple[int, int]) -> Camera:
        """Camera ``image_<index>`` in the pseudo-LiDAR frame.

        P is K [I | t] exactly, so that a camera holds all of it: t is the rectified origin seen
        from this camera, with the few millimetres along y and z that KITTI's files have.

        Args:
            index: 0 to 3.
            path: Image file; it need not exist.
            size: (height, width) of the image, pixels.
        """
        projection = self.image_from_rect[index]
        cam_from_rect = SE3(np.eye(3), np.linalg.solve(projection[:, :3], projection[:, 3]))
        return Camera(
            name=f"image_{index}",
            path=path,
            size=size,
            image_from_cam=projection[:, :3].copy(),
            ego_from_cam=EGO_FROM_RECT @ cam_from_rect.inverse(),
        )


def read_calibration(path: Path) -> Calibration:
    """The calibration of a ``calib/*.txt`` file.

    Raises:
        DataError: The file is missing, lacks a matrix, or one of them is not KITTI's.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read {path} ({error}); unpack data_object_calib.zip again"
        ) from error
    named = dict(line.split(":", 1) for line in lines if ":" in line)
    missing = [name for name in SHAPES if name not in named and name not in OPTIONAL]
    if missing:
        raise DataError(f"{path} lacks {missing}; unpack data_object_calib.zip again")
    matrices = {
        name: _matrix(named[name], shape, f"{name} in {path}")
        for name, shape in SHAPES.items()
        if name in named
    }
    imu = matrices.get("Tr_imu_to_velo")
    return Calibration(
        image_from_rect=np.stack([_projection(matrices[f"P{i}"], path) for i in range(4)]),
        rect_from_cam=matrices["R0_rect"],
        cam_from_lidar=_rigid(matrices["Tr_velo_to_cam"]),
        lidar_from_imu=None if imu is None else _rigid(imu),
    )


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write a ``calib/*.txt`` file as KITTI has it: twelve decimals, an empty line at the end."""
    matrices = {f"P{i}": calibration.image_from_rect[i] for i in range(4)}
    matrices["R0_rect"] = calibration.rect_from_cam
    matrices["Tr_velo_to_cam"] = calibration.cam_from_lidar.matrix[:3]
    if calibration.lidar_from_imu is not None:
        matrices["Tr_imu_to_velo"] = calibration.lidar_from_imu.matrix[:3]
    lines = [
        f"{name}: {' '.join(f'{number:.12e}' for number in matrix.ravel())}\n"
        for name, matrix in matrices.items()
    ]
    path.write_text("".join([*lines, "\n"]))


def _matrix(text: str, shape: tuple[int, int], where: str) -> Float64[np.ndarray, "3 c"]:
    try:
        numbers = np.array([float(field) for field in text.split()])
    except ValueError as error:
        raise DataError(f"{where}: {error}; unpack data_object_calib.zip again") from error
    if numbers.size != shape[0] * shape[1] or not np.isfinite(numbers).all():
        raise DataError(
            f"{where} holds {numbers.size} numbers, {int(np.isfinite(numbers).sum())} of them "
            f"finite, not {shape[0]} x {shape[1]}; unpack data_object_calib.zip again"
        )
    return numbers.reshape(shape)


def _projection(matrix: Float64[np.ndarray, "3 4"], path: Path) -> Float64[np.ndarray, "3 4"]:
    if not np.array_equal(matrix[2, :3], [0, 0, 1]) or not (matrix[[0, 1], [0, 1]] > 0).all():
        raise DataError(
            f"{path}: a projection matrix is not that of a rectified camera (focal lengths > 0, "
            "last row 0 0 1 and depth): rectify the images and write their matrices"
        )
    return matrix


def _rigid(matrix: Float64[np.ndarray, "3 4"]) -> SE3:
    return SE3(matrix[:, :3].copy(), matrix[:, 3].copy())
