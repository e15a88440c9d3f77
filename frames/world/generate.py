"""Write a whole world: scenes in parallel, tables last."""

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from frames.errors import DataError
from frames.world.config import SPLITS, WorldConfig, version_folder
from frames.world.nuscenes_tree import SceneWriter, Tables
from frames.world.vocabulary import MAP_FILE, vocabulary

# Raised when the same configuration would give other bytes than before.
WORLD_FORMAT = 1
CONFIG_FILE = "world.json"
MAP_PIXELS = 256

Job = TypeVar("Job")
Result = TypeVar("Result")
SceneJob = tuple[WorldConfig, Path, str, int]


class WorldMismatchError(DataError):
    """A folder holds another world than the one asked for."""


def is_complete(root: Path, config: WorldConfig) -> bool:
    """Whether ``root`` holds this very world, whole.

    Raises:
        WorldMismatchError: It holds another one.
    """
    folder = version_folder(root)
    if not folder.exists():
        return False
    record = folder / CONFIG_FILE
    found = json.loads(record.read_text()) if record.exists() else None
    if found != _record(config):
        raise WorldMismatchError(
            f"{folder} holds another world ({found}) than the one asked for ({_record(config)}); "
            "give another folder, or delete that one"
        )
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
    jobs = [
        (config, root, split, index)
        for split in SPLITS
        for index in range(len(config.scene_names(split)))
    ]
    tables: Tables = {}
    for done, rows in enumerate(each_scene(_write_scene, jobs, workers), 1):
        for table, more in rows.items():
            tables.setdefault(table, []).extend(more)
        if on_scene is not None:
            on_scene(done, len(jobs))
    tables |= vocabulary(config, [log["token"] for log in tables["log"]])
    _write_map(root)
    _write_tables(config, root, tables)


def each_scene(
    write: Callable[[Job], Result], jobs: Sequence[Job], workers: int
) -> Iterator[Result]:
    """What writing each scene gives, in the order of the jobs.

    Args:
        write: A module's function; it runs in the processes.
        jobs: Its arguments, one a scene.
        workers: Processes; 1 works in this one.
    """
    if workers == 1:
        yield from map(write, jobs)
        return
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(write, jobs)


def _write_scene(job: SceneJob) -> Tables:
    return SceneWriter(*job).write()


def _record(config: WorldConfig) -> dict[str, object]:
    # Without the tree, as the first worlds have it: they stay what they are.
    return {"format": WORLD_FORMAT, "config": config.model_dump(mode="json", exclude={"tree"})}


def _write_map(root: Path) -> None:
    """A blank raster: the devkit wants a file, nothing here reads roads from it."""
    path = root / MAP_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((MAP_PIXELS, MAP_PIXELS), 255, dtype=np.uint8)).save(path)


def _write_tables(config: WorldConfig, root: Path, tables: Tables) -> None:
    """All tables, the splits and the configuration, made visible by one rename."""
    folder = version_folder(root)
    draft = folder.with_name(folder.name + ".part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    contents: dict[str, object] = {f"{name}.json": rows for name, rows in tables.items()}
    contents["splits.json"] = {split: config.scene_names(split) for split in SPLITS}
    contents[CONFIG_FILE] = _record(config)
    for name, content in contents.items():
        (draft / name).write_text(json.dumps(content))
    draft.rename(folder)
