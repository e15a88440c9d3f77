"""The nuScenes reader: tables of nuscenes-devkit -> frames.

Conventions change here and nowhere else: nuScenes' w l h in the global frame becomes l w h in the
ego frame at the time stamp of the key LIDAR_TOP sweep, and a velocity the devkit cannot estimate
(NaN) becomes 0, as mmdet3d has it.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.nuscenes import NuScenes
from nuscenes.utils.splits import create_splits_scenes
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from frames.boxes import BOX_SIZE, Boxes3D
from frames.detection_classes import DETECTION_CLASSES
from frames.errors import DataError
from frames.frame import Camera, Frame, Sweep
from frames.geometry import SE3
from frames.labelled import FewLabels

logger = logging.getLogger(__name__)

Record = dict[str, Any]
CameraName = Literal[
    "CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT"
]
CAMERAS: tuple[CameraName, ...] = (
    "CAM_FRONT_LEFT",
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_BACK_LEFT",
    "CAM_BACK",
    "CAM_BACK_RIGHT",
)
LIDAR = "LIDAR_TOP"
TABLES = (
    *("attribute", "calibrated_sensor", "category", "ego_pose", "instance", "log", "map"),
    *("sample", "sample_annotation", "sample_data", "scene", "sensor", "visibility"),
)
# The rule of nuscenes.eval.common.loaders.load_gt: which version a predefined split belongs to.
SPLIT_VERSIONS = {
    "train": "trainval",
    "val": "trainval",
    "train_detect": "trainval",
    "train_track": "trainval",
    "mini_train": "mini",
    "mini_val": "mini",
    "test": "test",
}


class NuScenesConfig(FewLabels):
    """Which frames of a nuScenes tree to read; see ``FewLabels`` for those without labels.

    Attributes:
        dataset: Which data set this is; see ``frames/dataset.py``.
        root: Folder that holds ``samples``, ``sweeps``, ``maps`` and the version folders.
        version: Version folder, for example ``v1.0-trainval``.
        split: A predefined split of that version, a split of ``<root>/<version>/splits.json``
            (the devkit's own form: name -> list of scene names), or the name of one scene.
        sweeps: LiDAR sweeps a frame gathers at most, its own included.
        min_points: LiDAR + radar points a box needs to be ground truth.
        cameras: Cameras to read, in this order; one that a sample lacks is left out of its frame.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: Literal["nuscenes"] = "nuscenes"
    root: Path
    version: str
    split: str
    sweeps: int = Field(10, ge=1)
    min_points: int = Field(1, ge=0)
    cameras: tuple[CameraName, ...] = CAMERAS

    @property
    def classes(self) -> tuple[str, ...]:
        """What counts; labels index this tuple."""
        return DETECTION_CLASSES

    @property
    def ground_truth_filter(self) -> dict[str, Any]:
        """What decides which annotations are ground truth; part of a cache's fingerprint."""
        return {
            "classes": list(self.classes),
            "min_points": self.min_points,
            **self.hidden_filter,
        }


def read_frames(config: NuScenesConfig, limit: int | None = None) -> list[Frame]:
    """The frames of a split: scenes in the order of their table, frames by time.

    Args:
        config: What to read.
        limit: Read only the first so many frames.

    Raises:
        DataError: The tree, the version, a table or the split is missing.
    """
    tables = open_tables(config)
    samples = samples_of_split(tables, config.split)[:limit]
    return [_frame(tables, config, sample) for sample in samples]


def open_tables(config: NuScenesConfig) -> NuScenes:
    """The devkit's view of the tables.

    Raises:
        DataError: The root, the version or a table is missing, or tables are damaged.
    """
    folder = config.root / config.version
    if not config.root.is_dir():
        raise DataError(f"no nuScenes folder at {config.root}; set root to where the tree lies")
    if not folder.is_dir():
        versions = sorted(path.parent.name for path in config.root.glob("*/sample.json"))
        raise DataError(
            f"{config.root} has no version {config.version!r}; it holds {versions or 'none'}: "
            "set version to one of these, or unpack the missing one there"
        )
    missing = [name for name in TABLES if not (folder / f"{name}.json").is_file()]
    if missing:
        raise DataError(f"{folder} lacks the tables {missing}; unpack the version's metadata again")
    try:
        return NuScenes(config.version, str(config.root), verbose=False)
    except (AssertionError, KeyError, ValueError) as error:
        raise DataError(
            f"nuscenes-devkit cannot load {folder} ({type(error).__name__}: {error}); "
            "unpack the version's metadata and maps again"
        ) from error


def samples_of_split(tables: NuScenes, split: str) -> list[Record]:
    """The split's sample records: scenes in the order of their table, samples by time.

    Scenes that are not here are left out with a warning.

    Raises:
        DataError: The split is unknown to this version, or none of its scenes is here.
    """
    wanted = set(scenes_of_split(tables, split))
    order = {
        scene["token"]: rank for rank, scene in enumerate(tables.scene) if scene["name"] in wanted
    }
    samples = [sample for sample in tables.sample if sample["scene_token"] in order]
    if not samples:
        raise DataError(
            f"none of the {len(wanted)} scenes of split {split!r} is in {tables.table_root}; "
            f"it holds {_shorten([scene['name'] for scene in tables.scene])}: "
            "name one of these as the split, or unpack the rest"
        )
    if len(order) < len(wanted):
        logger.warning(
            "split %r: only %d of its %d scenes are in %s",
            *(split, len(order), len(wanted), tables.table_root),
        )
    return sorted(samples, key=lambda sample: (order[sample["scene_token"]], sample["timestamp"]))


def scenes_of_split(tables: NuScenes, split: str) -> list[str]:
    """Scene names of a split: predefined first, then ``splits.json``, then a scene by its name.

    Raises:
        DataError: The version knows no such split, or its ``splits.json`` is damaged.
    """
    predefined: dict[str, list[str]] = {
        name: scenes
        for name, scenes in create_splits_scenes().items()
        if tables.version.endswith(SPLIT_VERSIONS[name])
    }
    own_file = Path(tables.table_root) / "splits.json"
    own = _own_splits(own_file) if own_file.is_file() else {}
    scenes = [scene["name"] for scene in tables.scene]
    known = {**{name: [name] for name in scenes}, **own, **predefined}
    if split not in known:
        raise DataError(
            f"{tables.table_root} has no split {split!r}; it knows {sorted({**own, **predefined})} "
            f"and, as splits of one scene, {_shorten(scenes)}. "
            f"Set split to one of these, or add it to {own_file}"
        )
    return known[split]


def _own_splits(path: Path) -> dict[str, list[str]]:
    try:
        return TypeAdapter(dict[str, list[str]]).validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(
            f"{path} is damaged ({error.errors()[0]['msg']}): expected a JSON object of splits, "
            "name -> list of scene names; mend it, or write it again"
        ) from error


def _shorten(names: list[str]) -> str:
    shown = ", ".join(names[:8])
    return shown if len(names) <= 8 else f"{shown}, ... ({len(names)} in all)"


def _frame(tables: NuScenes, config: NuScenesConfig, sample: Record) -> Frame:
    if LIDAR not in sample["data"]:
        raise DataError(
            f"frame {sample['token']} has no {LIDAR} key record in {tables.table_root}/"
            f"sample_data.json, only {sorted(sample['data'])}; every frame needs one"
        )
    key = tables.get("sample_data", sample["data"][LIDAR])
    global_from_ego = _pose(tables.get("ego_pose", key["ego_pose_token"]))
    ego_from_global = global_from_ego.inverse()
    hidden_score = config.hidden_score(sample["token"])
    if hidden_score is None:
        boxes = _boxes(tables, sample, ego_from_global, config.min_points)
    else:
        boxes = Boxes3D.empty()
    return Frame(
        token=sample["token"],
        scene=tables.get("scene", sample["scene_token"])["name"],
        timestamp_us=key["timestamp"],
        global_from_ego=global_from_ego,
        cameras=tuple(
            _camera(tables, config, sample, name, ego_from_global)
            for name in config.cameras
            if name in sample["data"]
        ),
        sweeps=tuple(_sweeps(tables, config, key, ego_from_global)),
        boxes=boxes,
        prev=sample["prev"],
        next=sample["next"],
        teacher_score=hidden_score,
    )


def _pose(record: Record) -> SE3:
    return SE3.from_quaternion(record["rotation"], record["translation"])


def _ego_from_sensor(tables: NuScenes, data: Record, ego_from_global: SE3) -> SE3:
    """Sensor at its own time -> the frame's ego, by way of the ego pose at the sensor's time."""
    global_from_own_ego = _pose(tables.get("ego_pose", data["ego_pose_token"]))
    own_ego_from_sensor = _pose(tables.get("calibrated_sensor", data["calibrated_sensor_token"]))
    return ego_from_global @ global_from_own_ego @ own_ego_from_sensor


def _camera(
    tables: NuScenes, config: NuScenesConfig, sample: Record, name: str, ego_from_global: SE3
) -> Camera:
    data = tables.get("sample_data", sample["data"][name])
    calibration = tables.get("calibrated_sensor", data["calibrated_sensor_token"])
    return Camera(
        name=name,
        path=config.root / str(data["filename"]),
        size=(data["height"], data["width"]),
        image_from_cam=np.asarray(calibration["camera_intrinsic"], dtype=np.float64),
        ego_from_cam=_ego_from_sensor(tables, data, ego_from_global),
    )


def _sweeps(
    tables: NuScenes, config: NuScenesConfig, key: Record, ego_from_global: SE3
) -> Iterator[Sweep]:
    """The key sweep and those before it; near a recording's start fewer than asked for."""
    data = key
    for _ in range(config.sweeps):
        yield Sweep(
            path=config.root / str(data["filename"]),
            ego_from_lidar=_ego_from_sensor(tables, data, ego_from_global),
            time_lag=1e-6 * (key["timestamp"] - data["timestamp"]),
        )
        if not data["prev"]:
            return
        data = tables.get("sample_data", data["prev"])


def _boxes(tables: NuScenes, sample: Record, ego_from_global: SE3, min_points: int) -> Boxes3D:
    """Ground truth: boxes of the ten classes with enough points."""
    values, labels = [], []
    for record in (tables.get("sample_annotation", token) for token in sample["anns"]):
        name = category_to_detection_name(record["category_name"])
        if name is None or record["num_lidar_pts"] + record["num_radar_pts"] < min_points:
            continue
        box = ego_from_global @ _pose(record)
        width, length, height = record["size"]
        speed = np.array([*tables.box_velocity(record["token"])[:2], 0.0])
        velocity = np.nan_to_num(ego_from_global.rotation @ speed)[:2]
        values.append([*box.translation, length, width, height, box.yaw, *velocity])
        labels.append(DETECTION_CLASSES.index(name))
    return Boxes3D(
        torch.tensor(values, dtype=torch.float32).reshape(-1, BOX_SIZE),
        torch.tensor(labels, dtype=torch.int64),
    )
