"""Where the sensors sit and what rays they send: poses after nuScenes' own cars."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from frames.geometry import AHEAD, SE3
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
        name: Channel of the data set.
        ego_from_sensor: Pose on the car.
        lead_us: Microseconds before the LiDAR's time stamp.
        image_from_cam: Intrinsic matrix, pixels; None for the LiDAR.
        elevations: Row elevations of the LiDAR, ascending, radians; empty for cameras.
        directions: Unit rays in the sensor frame.
        ground: Distance to the flat ground along each ray, metres.
        steps: Columns of a whole turn of the LiDAR; 0 for cameras.
        start: Azimuth of the LiDAR's first column, radians counter-clockwise from +x.
    """

    name: str
    ego_from_sensor: SE3
    lead_us: int
    image_from_cam: Float64[np.ndarray, "3 3"] | None
    elevations: Float64[np.ndarray, " e"]
    directions: Float32[np.ndarray, "rows cols 3"]
    ground: Float32[np.ndarray, "rows cols"]
    steps: int = 0
    start: float = 0.0


def camera(mount: Mount, size: tuple[int, int]) -> Sensor:
    """The camera of a nuScenes mount with images of (height, width) pixels."""
    height, width = size
    focal = width / 2 / math.tan(math.radians(mount.field) / 2)
    intrinsic = np.array(
        [[focal, 0, (width - 1) / 2], [0, focal, HORIZON * height], [0, 0, 1]], dtype=np.float64
    )
    pose = SE3.from_yaw(math.radians(mount.yaw), list(mount.position)) @ AHEAD
    return pinhole(mount.name, pose, intrinsic, size, mount.lead_us)


def pinhole(
    name: str,
    ego_from_cam: SE3,
    image_from_cam: Float64[np.ndarray, "3 3"],
    size: tuple[int, int],
    lead_us: int = 0,
) -> Sensor:
    """A camera: one ray through the centre of each of (height, width) pixels."""
    height, width = size
    rows, cols = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    pixels = np.stack([cols, rows, np.ones_like(rows)], axis=-1)
    directions = pixels @ np.linalg.inv(image_from_cam).T
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    rays = directions.astype(np.float32)
    ground = _ground(rays, ego_from_cam)
    return Sensor(name, ego_from_cam, lead_us, image_from_cam, np.zeros(0), rays, ground)


def lidar(config: WorldConfig) -> Sensor:
    """The roof LiDAR: ``beams`` rows from the lowest, columns counter-clockwise from +x."""
    elevations = np.linspace(LOWEST_BEAM, HIGHEST_BEAM, config.beams)
    steps = config.azimuth_steps
    return spinning(LIDAR, EGO_FROM_LIDAR, elevations, steps, range(steps))


def spinning(
    name: str,
    ego_from_lidar: SE3,
    elevations: Float64[np.ndarray, " e"],
    steps: int,
    columns: range,
) -> Sensor:
    """A LiDAR: a row for each elevation, ascending, radians.

    Args:
        name: Channel.
        ego_from_lidar: Pose on the car, upright.
        elevations: Of its rows.
        steps: Columns of a whole turn, counter-clockwise from +x.
        columns: Those it has: a whole turn, or a sector of it.
    """
    pitch = 2 * math.pi / steps
    elevation, azimuth = np.meshgrid(elevations, np.array(columns) * pitch, indexing="ij")
    level = np.cos(elevation)
    directions = np.stack(
        [level * np.cos(azimuth), level * np.sin(azimuth), np.sin(elevation)], axis=-1
    )
    rays = directions.astype(np.float32)
    ground = _ground(rays, ego_from_lidar)
    start = columns[0] * pitch
    return Sensor(name, ego_from_lidar, 0, None, elevations, rays, ground, steps, start)


def _ground(
    rays: Float32[np.ndarray, "rows cols 3"], pose: SE3
) -> Float32[np.ndarray, "rows cols"]:
    return ground_depth(rays, pose.rotation[2], float(pose.translation[2]))
