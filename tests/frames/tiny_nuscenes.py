"""A nuScenes tree small enough to work out by hand.

Two scenes with names of the predefined mini splits (scene-0061: mini_train, scene-0103: mini_val).
scene-0061 has two frames 0.5 s apart with one LiDAR sweep between them, one camera exposed 0.1 s
before the LiDAR time, and ten objects, one of each class, all driving along global +y at 2 m/s,
10 m before the ego car, which looks along global +y and drives at 4 m/s. scene-0103 has one frame,
without camera, and one car.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Row = dict[str, Any]
VERSION = "v1.0-tiny"
T0 = 1_000_000_000_000_000
NORTH = [0.5**0.5, 0.0, 0.0, 0.5**0.5]
FLAT = [1.0, 0.0, 0.0, 0.0]
# Camera axes (x right, y down, z forward) in a car's axes (x forward, y left, z up).
CAMERA_FORWARD = [0.5, -0.5, 0.5, -0.5]
INTRINSICS = [[20.0, 0.0, 15.5], [0.0, 20.0, 9.5], [0.0, 0.0, 1.0]]
FINE = {
    "car": "vehicle.car",
    "truck": "vehicle.truck",
    "construction_vehicle": "vehicle.construction",
    "bus": "vehicle.bus.bendy",
    "trailer": "vehicle.trailer",
    "barrier": "movable_object.barrier",
    "motorcycle": "vehicle.motorcycle",
    "bicycle": "vehicle.bicycle",
    "pedestrian": "human.pedestrian.child",
    "traffic_cone": "movable_object.trafficcone",
}
ATTRIBUTE = {"vehicle": "vehicle.moving", "human": "pedestrian.moving"}
# Sensor frame x y z intensity ring; the middle one lies on the roof.
POINTS = np.array(
    [[5, 0, -2, 100, 1], [0.5, -0.9, 0, 7, 2], [0.5, 20, 1, 255, 31]], dtype=np.float32
)


def write_tiny(root: Path, version: str = VERSION) -> Path:
    """Write the tree and return its root."""
    tables = Tables(root)
    tables.frame("a0", "scene-0061", 0.0, prev="", following="a1", camera=True)
    tables.lidar("sweep", "a0", 0.25, prev="lidar-a0", key=False)
    tables.frame("a1", "scene-0061", 0.5, prev="a0", following="", camera=True, sweep="sweep")
    tables.frame("b0", "scene-0103", 9.0, prev="", following="", camera=False)
    for index, name in enumerate(FINE):
        x = 100 + 3.0 * (index - 4.5)
        tables.object(f"a0-{name}", "a0", FINE[name], (x, 60, 1), following=f"a1-{name}")
        tables.object(f"a1-{name}", "a1", FINE[name], (x, 61, 1), prev=f"a0-{name}")
    tables.object("cat", "a0", "animal", (100, 70, 1))
    tables.object("hidden", "a0", "vehicle.car", (100, 80, 1), points=(0, 0))
    tables.object("alone", "b0", "vehicle.car", (100, 99, 1), points=(0, 1))
    tables.write(version)
    return root


class Tables:
    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "maps").mkdir(parents=True)
        (root / "maps" / "none.png").touch()
        self.rows: dict[str, list[Row]] = {
            "map": [{"token": "m", "filename": "maps/none.png", "log_tokens": ["log"]}],
            "log": [{"token": "log", "logfile": "log", "location": "here"}],
            "scene": [
                {"token": name, "name": name, "log_token": "log"}
                for name in ("scene-0061", "scene-0103")
            ],
            "sensor": [
                {"token": "LIDAR_TOP", "channel": "LIDAR_TOP", "modality": "lidar"},
                {"token": "CAM_FRONT", "channel": "CAM_FRONT", "modality": "camera"},
            ],
            "calibrated_sensor": [
                _calibration("LIDAR_TOP", [1.0, 0.0, 2.0], FLAT, []),
                _calibration("CAM_FRONT", [1.5, 0.0, 1.5], CAMERA_FORWARD, INTRINSICS),
            ],
            "category": [{"token": name, "name": name} for name in [*FINE.values(), "animal"]],
            "attribute": [
                {"token": name, "name": name}
                for name in ("vehicle.moving", "pedestrian.moving", "cycle.with_rider")
            ],
            "visibility": [{"token": "4"}],
            "instance": [],
            "sample": [],
            "sample_data": [],
            "sample_annotation": [],
            "ego_pose": [],
        }

    def frame(
        self,
        token: str,
        scene: str,
        time: float,
        *,
        prev: str,
        following: str,
        camera: bool,
        sweep: str = "",
    ) -> None:
        self.rows["sample"].append(
            {
                "token": token,
                "scene_token": scene,
                "timestamp": T0 + round(time * 1e6),
                "prev": prev,
                "next": following,
            }
        )
        self.lidar(f"lidar-{token}", token, time, prev=sweep, key=True)
        if camera:
            path = f"samples/CAM_FRONT/{token}.jpg"
            self.data(f"camera-{token}", token, "CAM_FRONT", time - 0.1, path, "", key=True)
            self.rows["sample_data"][-1] |= {"height": 20, "width": 32}
            Image.new("RGB", (32, 20), (200, 30, 60)).save(self.root / path)

    def lidar(self, token: str, sample: str, time: float, *, prev: str, key: bool) -> None:
        path = f"{'samples' if key else 'sweeps'}/LIDAR_TOP/{token}.pcd.bin"
        self.data(token, sample, "LIDAR_TOP", time, path, prev, key=key)
        POINTS.tofile(self.root / path)

    def data(
        self, token: str, sample: str, channel: str, time: float, path: str, prev: str, *, key: bool
    ) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        self.rows["ego_pose"].append(
            {"token": token, "translation": [100.0, 50 + 4 * time, 0.0], "rotation": NORTH}
        )
        self.rows["sample_data"].append(
            {
                "token": token,
                "sample_token": sample,
                "ego_pose_token": token,
                "calibrated_sensor_token": channel,
                "timestamp": T0 + round(time * 1e6),
                "filename": path,
                "is_key_frame": key,
                "prev": prev,
                "next": "",
                "height": 0,
                "width": 0,
            }
        )

    def object(
        self,
        token: str,
        sample: str,
        category: str,
        centre: tuple[float, float, float],
        *,
        prev: str = "",
        following: str = "",
        points: tuple[int, int] = (5, 0),
    ) -> None:
        attribute = ATTRIBUTE.get(category.partition(".")[0])
        if category in ("vehicle.motorcycle", "vehicle.bicycle"):
            attribute = "cycle.with_rider"
        self.rows["instance"].append({"token": token, "category_token": category})
        self.rows["sample_annotation"].append(
            {
                "token": token,
                "sample_token": sample,
                "instance_token": token,
                "visibility_token": "4",
                "attribute_tokens": [attribute] if attribute else [],
                "translation": [float(c) for c in centre],
                "size": [2.0, 4.0, 1.5],
                "rotation": NORTH,
                "prev": prev,
                "next": following,
                "num_lidar_pts": points[0],
                "num_radar_pts": points[1],
            }
        )

    def write(self, version: str) -> None:
        folder = self.root / version
        folder.mkdir()
        for name, rows in self.rows.items():
            (folder / f"{name}.json").write_text(json.dumps(rows))
        splits = {"tiny_train": ["scene-0061"], "tiny_val": ["scene-0103"], "gone": ["scene-9"]}
        (folder / "splits.json").write_text(json.dumps(splits))


def _calibration(
    sensor: str, translation: list[float], rotation: list[float], intrinsic: list[list[float]]
) -> Row:
    return {
        "token": sensor,
        "sensor_token": sensor,
        "translation": translation,
        "rotation": rotation,
        "camera_intrinsic": intrinsic,
    }
