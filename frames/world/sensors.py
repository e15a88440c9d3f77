"""Where the sensors sit and what rays they send: poses after nuScenes' own cars."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from frames.geometry import SE3
from frames.world.config import WorldConfig
from frames.world.raycast import ground_depth

LIDAR = "LIDAR_TOP"
# LIDAR_TOP of nuScenes n015: x right, y forward, on the roof.
EGO_FROM_LIDAR = SE3.from_yaw(-math.pi / 2, [0.94, 0.0, 1.84])
LOWEST_BEAM, HIGHEST_BEAM = math.radians(-30), math.radians(10)
# The horizon's row as a share of the image height: a little above the middle, as after the crop
# of the sky that BEVDet-like pipelines apply.
HORIZON = 0.42


@dataclass(frozen=True, slots=True)
class Mount:
    """A camera on the car.

    Attributes:
        name: nuScenes channel.
        yaw: Viewing direction, degrees counter-clockwise from straight ahead.
        position: In the ego frame, metres.
        field: Horizontal field of view, degrees.
        lead_us: Microseconds before the LiDAR's time stamp at which it is exposed.
    """

    name: str
    yaw: float
    position: tuple[float, float, float]
    field: float
    lead_us: int


# Positions, directions and leads (the LiDAR's beam passes the cameras clockwise): nuScenes n015.
MOUNTS = (
    Mount("CAM_FRONT", 0.0, (1.70, 0.0, 1.51), 70.0, 35_000),
    Mount("CAM_FRONT_RIGHT", -55.0, (1.55, -0.49, 1.50), 70.0, 27_000),
    Mount("CAM_FRONT_LEFT", 55.0, (1.52, 0.49, 1.51), 70.0, 43_000),
    Mount("CAM_BACK", 180.0, (0.03, 0.0, 1.58), 110.0, 10_000),
    Mount("CAM_BACK_LEFT", 110.0, (1.04, 0.48, 1.59), 70.0, 1_000),
    Mount("CAM_BACK_RIGHT", -110.0, (1.01, -0.48, 1.56), 70.0, 20_000),
)


@dataclass(frozen=True, slots=True)
class Sensor:
    """A sensor with its rays.

    Attributes:
        name: nuScenes channel.
        ego_from_sensor: Pose on the car.
        lead_us: Microseconds before the LiDAR's time stamp.
        image_from_cam: Intrinsic matrix, pixels; None for the LiDAR.
        elevations: Row elevations of the LiDAR, ascending, radians; empty for cameras.
        directions: Unit rays in the sensor frame.
        ground: Distance to the flat ground along each ray, metres.
    """

    name: str
    ego_from_sensor: SE3
    lead_us: int
    image_from_cam: Float64[np.ndarray, "3 3"] | None
    elevations: Float64[np.ndarray, " e"]
    directions: Float32[np.ndarray, "rows cols 3"]
    ground: Float32[np.ndarray, "rows cols"]


def camera(mount: Mount, size: tuple[int, int]) -> Sensor:
    """The camera of a mount with images of (height, width) pixels."""
    height, width = size
    focal = width / 2 / math.tan(math.radians(mount.field) / 2)
    intrinsic = np.array(
        [[focal, 0, (width - 1) / 2], [0, focal, HORIZON * height], [0, 0, 1]], dtype=np.float64
    )
    rows, cols = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    pixels = np.stack([cols, rows, np.ones_like(rows)], axis=-1)
    directions = pixels @ np.linalg.inv(intrinsic).T
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    # Camera axes (x right, y down, z forward) of a camera that looks straight ahead.
    ahead = SE3(np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]), np.zeros(3))
    pose = SE3.from_yaw(math.radians(mount.yaw), list(mount.position)) @ ahead
    return _sensor(mount.name, pose, mount.lead_us, intrinsic, directions, np.zeros(0))


def lidar(config: WorldConfig) -> Sensor:
    """The roof LiDAR: ``beams`` rows from the lowest, columns counter-clockwise from +x."""
    elevations = np.linspace(LOWEST_BEAM, HIGHEST_BEAM, config.beams)
    azimuths = np.arange(config.azimuth_steps) * (2 * math.pi / config.azimuth_steps)
    elevation, azimuth = np.meshgrid(elevations, azimuths, indexing="ij")
    level = np.cos(elevation)
    directions = np.stack(
        [level * np.cos(azimuth), level * np.sin(azimuth), np.sin(elevation)], axis=-1
    )
    return _sensor(LIDAR, EGO_FROM_LIDAR, 0, None, directions, elevations)


def _sensor(
    name: str,
    pose: SE3,
    lead_us: int,
    intrinsic: Float64[np.ndarray, "3 3"] | None,
    directions: Float64[np.ndarray, "rows cols 3"],
    elevations: Float64[np.ndarray, " e"],
) -> Sensor:
    rays = directions.astype(np.float32)
    up, height = pose.rotation[2], float(pose.translation[2])
    return Sensor(name, pose, lead_us, intrinsic, elevations, rays, ground_depth(rays, up, height))
