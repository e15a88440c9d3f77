"""What both trees share: scenes in parallel, folders that appear at once, worlds told apart."""

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

from frames.errors import DataError
from frames.world.config import SPLITS, StreetConfig

CONFIG_FILE = "world.json"

Config = TypeVar("Config", bound=StreetConfig)
Result = TypeVar("Result")
Record = Mapping[str, object]
# Config of the world, folder of its tree, split, and which of the split's scenes.
SceneJob = tuple[Config, Path, str, int]


class WorldMismatchError(DataError):
    """A folder holds another world than the one asked for."""


def require_same_world(folder: Path, record: Record) -> None:
    """Refuse a folder whose world is another than the record says.

    Raises:
        WorldMismatchError: It holds another one.
    """
    path = folder / CONFIG_FILE
    found = json.loads(path.read_text()) if path.exists() else None
    if found != record:
        raise WorldMismatchError(
            f"{folder} is of another world ({found}) than the one asked for ({record}); "
            "give another folder, or delete that tree"
        )


def each_scene(
    write: Callable[[SceneJob[Config]], Result],
    config: Config,
    root: Path,
    workers: int,
    on_scene: Callable[[int, int], None] | None,
) -> Iterator[Result]:
    """What writing each scene gives, split by split.

    Args:
        write: A module's function; it runs in the processes.
        config: Of the world.
        root: The tree's folder.
        workers: Processes; 1 works in this one.
        on_scene: Called with (scenes done, scenes in all) after each scene.
    """
    jobs = [
        (config, root, split, index)
        for split in SPLITS
        for index in range(len(config.scene_names(split)))
    ]
    for done, result in enumerate(_written(write, jobs, workers), 1):
        yield result
        if on_scene is not None:
            on_scene(done, len(jobs))


def _written(
    write: Callable[[SceneJob[Config]], Result], jobs: list[SceneJob[Config]], workers: int
) -> Iterator[Result]:
    if workers == 1:
        yield from map(write, jobs)
        return
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(write, jobs)


def publish(folder: Path, record: Record, files: Mapping[str, str]) -> None:
    """Write a folder of files, and the world's record, that appears at once.

    Args:
        folder: It must not be there yet.
        record: Which world it is of.
        files: Content by name.
    """
    draft = folder.with_name(folder.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for name, content in {**files, CONFIG_FILE: json.dumps(record)}.items():
        (draft / name).write_text(content)
    draft.rename(folder)
