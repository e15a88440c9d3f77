"""A scene as nuScenes stores it: sensor files, and rows of the tables that differ by scene."""

import hashlib
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64
from PIL import Image

from frames.geometry import SE3
from frames.world.config import SPLITS, WorldConfig
from frames.world.proposals import Body
from frames.world.scene import FRAME_SECONDS, Scene, build_scene, scene_rng
from frames.world.sensors import MOUNTS, Sensor, camera, lidar
from frames.world.tracks import at
from frames.world.views import (
    CAMERA_SIGHT,
    LIDAR_SIGHT_FACTOR,
    ego_pose,
    image,
    look,
    points,
    points_inside,
    visible_rays,
)

Row = dict[str, Any]
Tables = dict[str, list[Row]]

JPEG_QUALITY = 92
# Scenes lie a minute apart on an invented day.
EPOCH_US, SCENE_PITCH_US = 1_700_000_000_000_000, 60_000_000
SPLIT_PITCH_US = 10_000 * SCENE_PITCH_US
MOVING_SPEED = 0.3
VISIBILITY_LEVELS = (0.4, 0.6, 0.8)


def token(*names: object) -> str:
    """A nuScenes token (32 hex digits) that depends on the names only."""
    return hashlib.blake2b("/".join(map(str, names)).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Shot:
    """One file of one sensor, and its row."""

    row: Row
    pose: Row


class SceneWriter:
    """Writes the sensor files of one scene and gathers its rows."""

    def __init__(self, config: WorldConfig, root: Path, split: str, index: int) -> None:
        self.config, self.root, self.split, self.index = config, root, split, index
        self.scene: Scene = build_scene(config, split, index)
        self.start_us = EPOCH_US + SPLITS.index(split) * SPLIT_PITCH_US + index * SCENE_PITCH_US
        self.lidar = lidar(config)
        self.cameras = [camera(mount, config.image_size) for mount in MOUNTS]
        self.shots: dict[str, list[Shot]] = {}
        self.annotations: dict[int, list[Row]] = {}

    def write(self) -> Tables:
        """Write all files of the scene; returns its rows by table."""
        frames, sweeps = self.config.frames_per_scene, self.config.sweeps_per_key
        for frame in range(frames):
            seen = np.zeros((2, len(self.scene.bodies)), dtype=np.int64)
            for number, sensor in enumerate(self.cameras):
                seen += self._write_image(sensor, frame, number)
            for step in range(1, sweeps + 1):
                if frame:
                    self._write_cloud(frame, (step / (sweeps + 1) - 1) * FRAME_SECONDS, step)
            cloud = self._write_cloud(frame, 0.0, 0)
            self._annotate(frame, cloud, seen)
        return self._rows()

    def _name(self, kind: str, *names: object) -> str:
        return token(self.config.seed, kind, self.scene.name, *names)

    def _sample(self, frame: int) -> str:
        inside = 0 <= frame < self.config.frames_per_scene
        return self._name("sample", frame) if inside else ""

    def _file(self, sensor: Sensor, frame: int, seconds: float, *, key: bool) -> tuple[Path, float]:
        """Book a file in the tables; returns its path and the scene time of its time stamp."""
        stamp = self.start_us + round((frame * FRAME_SECONDS + seconds) * 1e6)
        folder, ending = "samples" if key else "sweeps", "pcd.bin"
        height, width = 0, 0
        if sensor.image_from_cam is not None:
            ending, (height, width) = "jpg", self.config.image_size
        name = f"{folder}/{sensor.name}/{self.scene.name}__{sensor.name}__{stamp}.{ending}"
        time = (stamp - self.start_us) * 1e-6
        pose = ego_pose(self.scene, time)
        identity = self._name("sample_data", sensor.name, stamp)
        pose_row = {"token": identity, "timestamp": stamp} | _pose(pose)
        row = {
            "token": identity,
            "sample_token": self._sample(frame),
            "ego_pose_token": identity,
            "calibrated_sensor_token": token("calibrated_sensor", sensor.name),
            "timestamp": stamp,
            "fileformat": ending.split(".")[0],
            "is_key_frame": key,
            "height": height,
            "width": width,
            "filename": name,
        }
        self.shots.setdefault(sensor.name, []).append(Shot(row, pose_row))
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path, time

    def _write_image(self, sensor: Sensor, frame: int, number: int) -> Int64[np.ndarray, "2 g"]:
        """Write a key frame's image; returns pixels of each body that are (visible, unhidden)."""
        path, time = self._file(sensor, frame, -sensor.lead_us * 1e-6, key=True)
        view = look(self.scene, sensor, time, CAMERA_SIGHT)
        rng = scene_rng(self.config, self.split, self.index, frame, 1, number)
        picture = Image.fromarray(image(self.scene, sensor, view, rng))
        picture.save(path, quality=JPEG_QUALITY)
        return np.stack([visible_rays(self.scene, view.hits), view.hits.unhidden])

    def _write_cloud(self, frame: int, seconds: float, step: int) -> Float32[np.ndarray, "n 5"]:
        """Write one LiDAR turn; returns its points."""
        path, time = self._file(self.lidar, frame, seconds, key=step == 0)
        view = look(self.scene, self.lidar, time, LIDAR_SIGHT_FACTOR * self.config.lidar_range)
        rng = scene_rng(self.config, self.split, self.index, frame, 2, step)
        cloud = points(self.scene, self.config, view, self.lidar, rng)
        cloud.tofile(path)
        return cloud

    def _annotate(
        self, frame: int, cloud: Float32[np.ndarray, "n 5"], seen: Int64[np.ndarray, "2 g"]
    ) -> None:
        """Annotate what is in range at the LiDAR's time."""
        time = frame * FRAME_SECONDS
        global_from_ego = ego_pose(self.scene, time)
        global_from_lidar = global_from_ego @ self.lidar.ego_from_sensor
        poses = at(self.scene.states, time)
        apart = np.linalg.norm(poses[:, :2] - global_from_ego.translation[:2], axis=1)
        for number in np.flatnonzero(apart <= self.config.lidar_range).tolist():
            body = self.scene.bodies[number]
            if not body.category:
                continue
            x, y, yaw = poses[number].tolist()
            box = SE3.from_yaw(yaw, [x, y, float(body.size[2]) / 2])
            inside = points_inside(cloud, box.inverse() @ global_from_lidar, body.size)
            length, width, height = body.size.tolist()
            row = {
                "token": self._name("sample_annotation", number, frame),
                "sample_token": self._sample(frame),
                "instance_token": self._name("instance", number),
                "visibility_token": _visibility(*seen[:, number].tolist()),
                "attribute_tokens": [token("attribute", a) for a in self._attribute(number, time)],
                "size": [width, length, height],
                "num_lidar_pts": inside,
                "num_radar_pts": 0,
            }
            self.annotations.setdefault(number, []).append(row | _pose(box))

    def _attribute(self, number: int, time: float) -> list[str]:
        before, after = (at(self.scene.states[number, None], time + s)[0] for s in (-0.05, 0.05))
        speed = math.dist(before[:2], after[:2]) / 0.1
        return attribute(self.scene.bodies[number], speed)

    def _rows(self) -> Tables:
        frames, name = self.config.frames_per_scene, self.scene.name
        shots = [shot for taken in self.shots.values() for shot in _by_time(taken)]
        samples = [
            {
                "token": self._sample(frame),
                "timestamp": self.start_us + round(frame * FRAME_SECONDS * 1e6),
                "prev": self._sample(frame - 1),
                "next": self._sample(frame + 1),
                "scene_token": self._name("scene"),
            }
            for frame in range(frames)
        ]
        scene = {
            "token": self._name("scene"),
            "log_token": self._name("log"),
            "nbr_samples": frames,
            "first_sample_token": self._sample(0),
            "last_sample_token": self._sample(frames - 1),
            "name": name,
            "description": "Procedural street",
        }
        day = datetime.fromtimestamp(self.start_us * 1e-6, tz=UTC).strftime("%Y-%m-%d")
        log = {"logfile": name, "vehicle": "world", "date_captured": day, "location": "world"}
        instances, annotations = self._instances()
        return {
            "scene": [scene],
            "log": [{"token": self._name("log")} | log],
            "sample": samples,
            "sample_data": [shot.row for shot in shots],
            "ego_pose": [shot.pose for shot in shots],
            "instance": instances,
            "sample_annotation": annotations,
        }

    def _instances(self) -> tuple[list[Row], list[Row]]:
        """Instance rows, and annotation rows linked along them."""
        instances, annotations = [], []
        for number, rows in sorted(self.annotations.items()):
            instances.append(
                {
                    "token": self._name("instance", number),
                    "category_token": token("category", self.scene.bodies[number].category),
                    "nbr_annotations": len(rows),
                    "first_annotation_token": rows[0]["token"],
                    "last_annotation_token": rows[-1]["token"],
                }
            )
            annotations += _linked(rows)
        return instances, annotations


def attribute(body: Body, speed: float) -> list[str]:
    """The nuScenes attribute of a body at a speed in m/s; none for barriers and cones."""
    moving = speed > MOVING_SPEED
    if body.kind in {"barrier", "traffic_cone"}:
        return []
    if body.kind == "pedestrian":
        return ["pedestrian.moving" if moving else "pedestrian.standing"]
    if body.kind in {"motorcycle", "bicycle"}:
        return ["cycle.with_rider" if body.rider else "cycle.without_rider"]
    still = "vehicle.parked" if body.parked else "vehicle.stopped"
    return ["vehicle.moving" if moving else still]


def _visibility(visible: int, unhidden: int) -> str:
    """Token of the visibility level, "1" (least) to "4"."""
    share = visible / unhidden if unhidden else 0.0
    return str(1 + sum(share >= level for level in VISIBILITY_LEVELS))


def _pose(pose: SE3) -> dict[str, list[float]]:
    return {"translation": pose.translation.tolist(), "rotation": pose.quaternion}


def _linked(rows: list[Row]) -> list[Row]:
    """The rows with ``prev`` and ``next`` tokens in their order."""
    tokens = ["", *(row["token"] for row in rows), ""]
    return [
        row | {"prev": tokens[place], "next": tokens[place + 2]} for place, row in enumerate(rows)
    ]


def _by_time(shots: list[Shot]) -> list[Shot]:
    shots = sorted(shots, key=lambda shot: int(shot.row["timestamp"]))
    rows = _linked([shot.row for shot in shots])
    return [Shot(row, shot.pose) for row, shot in zip(rows, shots, strict=True)]
