"""The sensors of a KITTI world: a rectified stereo pair and a LiDAR on the roof, as KITTI's car."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from frames.geometry import AHEAD, SE3
from frames.kitti.calibration import Calibration
from frames.world.config import KittiWorldConfig
from frames.world.sensors import Sensor, pinhole, spinning

# Cameras before the rear axle, LiDAR behind and above them, metres: KITTI's setup page.
CAMERA_AHEAD = 1.03
LIDAR_BEHIND, LIDAR_ABOVE = 0.27, 0.08
# HDL-64E S2, data sheet.
LOWEST_BEAM, HIGHEST_BEAM = math.radians(-24.8), math.radians(2.0)
# Cameras 2 and 3 stand left of cameras 0 and 1, metres: P2 of KITTI's training frame 000107.
COLOUR_LEFT_OF_GREY = 0.06
# Of the same file: about a degree, so that a reader that forgets it is wrong; and the IMU.
RECT_FROM_CAM = SE3.from_quaternion([1.0, 0.0022, -0.0037, -0.0049], [0.0, 0.0, 0.0]).rotation
LIDAR_FROM_IMU = SE3(np.eye(3), np.array([-0.81, 0.32, -0.80]))


@dataclass(frozen=True, slots=True, kw_only=True)
class StereoRig:
    """What stands on the car; "rect" is the rectified frame of camera 0.

    Attributes:
        left: Camera 2.
        right: Camera 3.
        lidar: Axes as the car's: x forward, y left, z up.
        calibration: What KITTI's files say of them.
    """

    left: Sensor
    right: Sensor
    lidar: Sensor
    calibration: Calibration


def stereo_rig(config: KittiWorldConfig) -> StereoRig:
    """The sensors of a world's configuration."""
    ego_from_rect = SE3(AHEAD.rotation, np.array([CAMERA_AHEAD, 0.0, config.camera_height]))
    lidar = _lidar(config)
    rect_from_lidar = ego_from_rect.inverse() @ lidar.ego_from_sensor
    intrinsic = _intrinsic(config)
    right_of_rect = np.array([0.0, config.baseline, 0.0, config.baseline])
    right_of_rect[2:] -= COLOUR_LEFT_OF_GREY
    left, right = (
        pinhole(
            f"image_{index}",
            ego_from_rect @ SE3(np.eye(3), np.array([right_of_rect[index], 0.0, 0.0])),
            intrinsic,
            config.image_size,
        )
        for index in (2, 3)
    )
    projections = np.zeros((4, 3, 4))
    projections[:, :, :3] = intrinsic
    projections[:, 0, 3] -= intrinsic[0, 0] * right_of_rect
    calibration = Calibration(
        image_from_rect=projections,
        rect_from_cam=RECT_FROM_CAM,
        cam_from_lidar=SE3(RECT_FROM_CAM, np.zeros(3)).inverse() @ rect_from_lidar,
        lidar_from_imu=LIDAR_FROM_IMU,
    )
    return StereoRig(left=left, right=right, lidar=lidar, calibration=calibration)


def _intrinsic(config: KittiWorldConfig) -> Float64[np.ndarray, "3 3"]:
    height, width = config.image_size
    u, v = config.principal_point
    focal = config.focal_length
    return np.array([[focal, 0, u * width], [0, focal, v * height], [0, 0, 1]], dtype=np.float64)


def _lidar(config: KittiWorldConfig) -> Sensor:
    position = [CAMERA_AHEAD - LIDAR_BEHIND, 0.0, config.camera_height + LIDAR_ABOVE]
    elevations = np.linspace(LOWEST_BEAM, HIGHEST_BEAM, config.beams)
    count = max(round(config.azimuth_steps * config.lidar_sector / 360), 1)
    columns = range(-(count // 2), count - count // 2)
    return spinning(
        "velodyne", SE3(np.eye(3), np.array(position)), elevations, config.azimuth_steps, columns
    )
