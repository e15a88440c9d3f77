"""What the sensors see of a scene at an instant: images, LiDAR returns, visible pixels."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8

from frames.geometry import SE3
from frames.world.config import StreetConfig
from frames.world.raycast import Hits, Placement, azimuth_windows, camera_windows, cast
from frames.world.road import ground_colour
from frames.world.scene import Scene
from frames.world.sensors import Sensor
from frames.world.tracks import at

# Further solids are not cast: at 40 m and more they are a few pixels.
CAMERA_SIGHT = 70.0
# The LiDAR returns points a little beyond the annotated range.
LIDAR_SIGHT_FACTOR = 1.15
RANGE_NOISE = 0.03
LEAST_LOSS, MOST_LOSS = 0.05, 0.55
GROUND_REFLECTIVITY = 0.12
SUN = np.array([0.45, 0.30, 0.84])
AMBIENT = 0.55
SKY_LOW, SKY_HIGH = np.array([0.80, 0.85, 0.90]), np.array([0.42, 0.58, 0.82])
HAZE_METRES = 160.0
PIXEL_NOISE = 0.018
EXPOSURE = (0.9, 1.1)


@dataclass(frozen=True, slots=True)
class View:
    """A sensor's hits at an instant.

    Attributes:
        hits: What each ray meets.
        global_from_sensor: The sensor's pose then.
        yaws: Headings of all bodies then, radians.
    """

    hits: Hits
    global_from_sensor: SE3
    yaws: Float64[np.ndarray, " g"]


def ego_pose(scene: Scene, time: float) -> SE3:
    """``global_from_ego`` at a time of the scene, seconds."""
    x, y, yaw = at(scene.ego[None], time)[0]
    return SE3.from_yaw(float(yaw), [float(x), float(y), 0.0])


def look(scene: Scene, sensor: Sensor, time: float, sight: float) -> View:
    """Cast all rays of a sensor.

    Args:
        scene: What there is.
        sensor: Who looks.
        time: Of the scene, seconds.
        sight: Bodies whose corners all lie further away are left out, metres.
    """
    global_from_sensor = ego_pose(scene, time) @ sensor.ego_from_sensor
    sensor_from_global = global_from_sensor.inverse()
    poses = at(scene.states, time)
    cos, sin, zero = np.cos(poses[:, 2]), np.sin(poses[:, 2]), np.zeros(len(poses))
    turns = np.stack([cos, -sin, zero, sin, cos, zero, zero, zero, zero + 1], axis=1)
    origins = np.concatenate([poses[:, :2], zero[:, None]], axis=1)
    placement = Placement(
        (sensor_from_global.rotation @ turns.reshape(-1, 3, 3)).astype(np.float32),
        sensor_from_global.apply(origins).astype(np.float32),
    )
    corners = placement.apply(scene.solids.corners())
    if sensor.image_from_cam is None:
        windows = azimuth_windows(corners, sensor.elevations, sensor.steps, sensor.start)
        # Of a sector only its first columns are there.
        windows[:, 4] = windows[:, 4].clip(max=sensor.ground.shape[1])
        windows = windows[windows[:, 3] < windows[:, 4]]
    else:
        rows, cols = sensor.ground.shape
        windows = camera_windows(corners, sensor.image_from_cam, (rows, cols))
    near = np.linalg.norm(corners, axis=2).min(1) < sight
    windows = windows[near[windows[:, 0]]]
    hits = cast(sensor.directions, sensor.ground, scene.solids, placement, windows)
    return View(hits, global_from_sensor, poses[:, 2])


def visible_rays(scene: Scene, hits: Hits) -> Int64[np.ndarray, " g"]:
    """How many rays meet each body first."""
    owners = scene.solids.owner[hits.part[hits.part >= 0]]
    return np.bincount(owners, minlength=len(scene.bodies)).astype(np.int64)


def image(
    scene: Scene, sensor: Sensor, view: View, rng: np.random.Generator
) -> UInt8[np.ndarray, "rows cols 3"]:
    """The picture as a camera takes it."""
    picture = radiance(scene, sensor, view)
    noise = rng.standard_normal(picture.shape, dtype=np.float32)
    return expose(picture, noise, float(rng.uniform(*EXPOSURE)))


def expose(
    picture: Float32[np.ndarray, "rows cols 3"],
    noise: Float32[np.ndarray, "rows cols 3"],
    exposure: float,
) -> UInt8[np.ndarray, "rows cols 3"]:
    """Bytes of a picture of 0..1, with standard normal noise and a factor of brightness."""
    picture = picture * np.float32(exposure) + PIXEL_NOISE * noise
    shown: UInt8[np.ndarray, "rows cols 3"] = np.clip(picture * 255, 0, 255).astype(np.uint8)
    return shown


def radiance(scene: Scene, sensor: Sensor, view: View) -> Float32[np.ndarray, "rows cols 3"]:
    """RGB of 0..1, without noise: shaded parts, painted ground, sky and haze."""
    hits = view.hits
    rotation = view.global_from_sensor.rotation.astype(np.float32)
    rays = sensor.directions @ rotation.T
    height = np.clip(rays[..., 2:] * 3, 0, 1)
    sky = SKY_LOW + height * (SKY_HIGH - SKY_LOW)
    picture: Float32[np.ndarray, "rows cols 3"] = sky.astype(np.float32)
    solid = hits.part >= 0
    part = hits.part[solid]
    shade = _shade(view.yaws)[scene.solids.owner[part], hits.face[solid]]
    picture[solid] = scene.colours[part] * shade[:, None]
    ground = ~solid & np.isfinite(hits.depth)
    reached = rays[ground] * hits.depth[ground][:, None] + view.global_from_sensor.translation
    along, left = scene.road.from_global(reached[:, 0], reached[:, 1])
    picture[ground] = ground_colour(along, left, scene.road.crossing)
    haze = 1 - np.exp(-hits.depth / HAZE_METRES)[..., None]
    picture += haze * (SKY_LOW.astype(np.float32) - picture) * (solid | ground)[..., None]
    return picture


def _shade(yaws: Float64[np.ndarray, " g"]) -> Float32[np.ndarray, "g 6"]:
    """Brightness of the six faces of upright bodies under the sun."""
    cos, sin = np.cos(yaws), np.sin(yaws)
    forward = SUN[0] * cos + SUN[1] * sin
    leftward = SUN[1] * cos - SUN[0] * sin
    up = np.full_like(cos, SUN[2])
    facing = np.stack([-forward, forward, -leftward, leftward, -up, up], axis=1)
    shade: Float32[np.ndarray, "g 6"] = np.clip(facing, 0, 1).astype(np.float32)
    return AMBIENT + (1 - AMBIENT) * shade


def points(
    scene: Scene, config: StreetConfig, view: View, sensor: Sensor, rng: np.random.Generator
) -> Float32[np.ndarray, "n 5"]:
    """LiDAR returns (x, y, z, intensity 0..255, ring) in the sensor frame, metres."""
    hits = view.hits
    sight = LIDAR_SIGHT_FACTOR * config.lidar_range
    ring, column = np.nonzero(hits.depth < sight)
    depth, part = hits.depth[ring, column], hits.part[ring, column]
    ray = sensor.directions[ring, column]
    cosine = np.where(part >= 0, hits.cosine[ring, column], np.abs(ray[:, 2]))
    reflectivity = np.where(part >= 0, scene.reflectivity[part], GROUND_REFLECTIVITY)
    loss = LEAST_LOSS + 0.35 * depth / sight + 0.25 * (1 - cosine) ** 4
    kept = rng.random(len(depth)) > np.minimum(loss, MOST_LOSS)
    depth = depth + RANGE_NOISE * rng.standard_normal(len(depth), dtype=np.float32)
    bright = 255 * reflectivity * np.sqrt(cosine) * rng.uniform(0.85, 1.15, len(depth))
    rows = np.column_stack([ray * depth[:, None], np.floor(np.clip(bright, 0, 255)), ring])
    return rows[kept].astype(np.float32)


def points_inside(
    cloud: Float32[np.ndarray, "n 5"], box_from_sensor: SE3, size: Float64[np.ndarray, "3"]
) -> int:
    """How many returns lie in a box of (length, width, height) metres around its origin."""
    near = np.abs(cloud[:, :3] + box_from_sensor.rotation.T @ box_from_sensor.translation)
    candidates = cloud[(near <= math.hypot(*size)).all(1), :3].astype(np.float64)
    local = np.abs(box_from_sensor.apply(candidates))
    return int((local <= size / 2).all(1).sum())
