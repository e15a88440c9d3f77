"""A world as a KITTI tree: frames in ``training``, written scene by scene, and their lists."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from frames.kitti.calibration import write_calibration
from frames.kitti.labels import LABEL_DECIMALS, write_objects
from frames.kitti.reader import LIDAR_FLOATS, TRAINING
from frames.world.config import SPLITS, KittiWorldConfig
from frames.world.kitti_labels import label_objects
from frames.world.scene import FRAME_SECONDS, build_scene, scene_rng
from frames.world.sensors import Sensor
from frames.world.stereo_rig import stereo_rig
from frames.world.tree import SceneJob, WorldMismatchError, each_scene, publish, require_same_world
from frames.world.views import (
    CAMERA_SIGHT,
    EXPOSURE,
    LIDAR_SIGHT_FACTOR,
    View,
    expose,
    look,
    points,
    radiance,
)

# Raised when the same configuration would give other bytes than before.
KITTI_WORLD_FORMAT = 1
FOLDERS = ("calib", "label_2", "image_2", "image_3", "velodyne")
# The lists make a tree whole; while it grows, a journal of what it is and which scenes are done.
LISTS, JOURNAL = "ImageSets", "ImageSets.part"
# Noise does not compress: more takes several times as long for a tenth of the bytes.
PNG_COMPRESSION = 1
INTENSITY_SCALE = 255
# Uses of chance within a frame.
EXPOSURE_USE, IMAGE_USE, LIDAR_USE = range(3)


def is_complete(root: Path, config: KittiWorldConfig) -> bool:
    """Whether ``root`` holds this very world, whole; if not, it may hold a part of it.

    Raises:
        WorldMismatchError: It holds another world, or another KITTI tree.
    """
    whole, growing = root / LISTS, root / JOURNAL
    if not whole.exists() and not growing.exists():
        if not (root / TRAINING).exists():
            return False
        raise WorldMismatchError(
            f"{root / TRAINING} is there, but neither {whole} nor {growing}: it is no world of "
            "this project; give another folder"
        )
    require_same_world(whole if whole.exists() else growing, _record(config))
    return whole.exists()


def write_kitti_world(
    config: KittiWorldConfig,
    root: Path,
    workers: int = 2,
    on_scene: Callable[[int, int], None] | None = None,
) -> None:
    """Write a world as a KITTI tree, unless it is there already.

    The bytes depend on the configuration only. ``ImageSets`` appears last and at once, so a folder
    with it is a whole world; after an interruption call it again, and it goes on where it was.

    Args:
        config: What to write.
        root: The tree's folder.
        workers: Processes; 1 works in this one.
        on_scene: Called with (scenes done, scenes in all) after each scene.

    Raises:
        WorldMismatchError: ``root`` holds another world, or another KITTI tree.
    """
    if not is_complete(root, config):
        _begin(config, root)
        for _ in each_scene(_write_scene, config, root, workers, on_scene):
            pass
        lists = {f"{split}.txt": "\n".join([*tokens(config, split), ""]) for split in SPLITS}
        publish(root / LISTS, _record(config), lists)
    shutil.rmtree(root / JOURNAL, ignore_errors=True)


def tokens(config: KittiWorldConfig, split: str) -> list[str]:
    """The frames of a split: six digits, the training scenes' first, in time."""
    starts = {"world_train": 0, "world_val": config.train_scenes}
    first = starts[split] * config.frames_per_scene
    count = len(config.scene_names(split)) * config.frames_per_scene
    return [f"{number:06d}" for number in range(first, first + count)]


def _record(config: KittiWorldConfig) -> dict[str, Any]:
    return {"format": KITTI_WORLD_FORMAT, "config": config.model_dump(mode="json")}


def _begin(config: KittiWorldConfig, root: Path) -> None:
    """Make a journal, unless there is one, and then the folders."""
    if not (root / JOURNAL).exists():
        publish(root / JOURNAL, _record(config), {})
    for name in FOLDERS:
        (root / TRAINING / name).mkdir(parents=True, exist_ok=True)


def _write_scene(job: SceneJob[KittiWorldConfig]) -> None:
    """Write a scene's frames, and a mark in the journal; nothing if the mark is there."""
    config, root, split, index = job
    mark = root / JOURNAL / config.scene_names(split)[index]
    if not mark.exists():
        _SceneWriter(*job).write()
        mark.touch()


class _SceneWriter:
    """Writes the files of one scene's frames."""

    def __init__(self, config: KittiWorldConfig, root: Path, split: str, index: int) -> None:
        self.config, self.split, self.index = config, split, index
        self.folder = root / TRAINING
        self.scene, self.rig = build_scene(config, split, index), stereo_rig(config)

    def write(self) -> None:
        frames = self.config.frames_per_scene
        first = self.index * frames
        for frame, token in enumerate(tokens(self.config, self.split)[first : first + frames]):
            left = self._write_images(frame, token)
            self._write_cloud(frame, token)
            camera = self.rig.calibration.camera(2, Path(), self.config.image_size)
            labels = label_objects(
                self.scene, left, camera, frame * FRAME_SECONDS, self.config.lidar_range
            )
            write_objects(self.folder / "label_2" / f"{token}.txt", labels, LABEL_DECIMALS)
            write_calibration(self.folder / "calib" / f"{token}.txt", self.rig.calibration)

    def _rng(self, frame: int, *use: int) -> np.random.Generator:
        return scene_rng(self.config, self.split, self.index, frame, *use)

    def _look(self, sensor: Sensor, frame: int) -> View:
        """At the frame's instant: all sensors see the same one."""
        sight = max(CAMERA_SIGHT, LIDAR_SIGHT_FACTOR * self.config.lidar_range)
        return look(self.scene, sensor, frame * FRAME_SECONDS, sight)

    def _write_images(self, frame: int, token: str) -> View:
        """Write both images; returns what the left camera sees."""
        exposure = float(self._rng(frame, EXPOSURE_USE).uniform(*EXPOSURE))
        views = []
        for eye, sensor in enumerate((self.rig.left, self.rig.right)):
            view = self._look(sensor, frame)
            picture = radiance(self.scene, sensor, view)
            rng = self._rng(frame, IMAGE_USE, eye)
            noise = rng.standard_normal(picture.shape, dtype=np.float32)
            path = self.folder / sensor.name / f"{token}.png"
            image = Image.fromarray(expose(picture, noise, exposure))
            image.save(path, compress_level=PNG_COMPRESSION)
            views.append(view)
        return views[0]

    def _write_cloud(self, frame: int, token: str) -> None:
        view = self._look(self.rig.lidar, frame)
        cloud = points(self.scene, self.config, view, self.rig.lidar, self._rng(frame, LIDAR_USE))
        cloud = cloud[:, :LIDAR_FLOATS]
        cloud[:, 3] /= INTENSITY_SCALE
        cloud.tofile(self.folder / "velodyne" / f"{token}.bin")
