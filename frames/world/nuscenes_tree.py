"""A world as a nuScenes tree: sensor files scene by scene, tables last."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from frames.world.config import SPLITS, WorldConfig, version_folder
from frames.world.nuscenes_scene import SceneWriter, Tables
from frames.world.tree import SceneJob, each_scene, publish, require_same_world
from frames.world.vocabulary import MAP_FILE, vocabulary

# Raised when the same configuration would give other bytes than before.
WORLD_FORMAT = 1
MAP_PIXELS = 256


def is_complete(root: Path, config: WorldConfig) -> bool:
    """Whether ``root`` holds this very world, whole.

    Raises:
        WorldMismatchError: It holds another one.
    """
    folder = version_folder(root)
    if not folder.exists():
        return False
    require_same_world(folder, _record(config))
    return True


def write_world(
    config: WorldConfig,
    root: Path,
    workers: int = 2,
    on_scene: Callable[[int, int], None] | None = None,
) -> None:
    """Write a world as a nuScenes tree, unless it is there already.

    The bytes depend on the configuration only. The tables appear last and at once, so a folder
    with tables is a whole world; after an interruption call it again.

    Args:
        config: What to write.
        root: The tree's folder (the devkit's ``dataroot``).
        workers: Processes; 1 works in this one.
        on_scene: Called with (scenes done, scenes in all) after each scene.

    Raises:
        WorldMismatchError: ``root`` holds another world.
    """
    if is_complete(root, config):
        return
    tables: Tables = {}
    for rows in each_scene(_write_scene, config, root, workers, on_scene):
        for table, more in rows.items():
            tables.setdefault(table, []).extend(more)
    tables |= vocabulary(config, [log["token"] for log in tables["log"]])
    _write_map(root)
    splits = {split: config.scene_names(split) for split in SPLITS}
    contents = {f"{name}.json": json.dumps(rows) for name, rows in tables.items()}
    publish(version_folder(root), _record(config), contents | {"splits.json": json.dumps(splits)})


def _write_scene(job: SceneJob[WorldConfig]) -> Tables:
    return SceneWriter(*job).write()


def _record(config: WorldConfig) -> dict[str, object]:
    # Without the tree, as the first worlds have it: they stay what they are.
    return {"format": WORLD_FORMAT, "config": config.model_dump(mode="json", exclude={"tree"})}


def _write_map(root: Path) -> None:
    """A blank raster: the devkit wants a file, nothing here reads roads from it."""
    path = root / MAP_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((MAP_PIXELS, MAP_PIXELS), 255, dtype=np.uint8)).save(path)
