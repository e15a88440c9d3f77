"""Reading a world's TOML, and making that world, with progress."""

from pathlib import Path

from commands.progress import progress_bar
from frames.world.config import WORLDS, KittiWorldConfig, TreeChoice, WorldConfig
from frames.world.kitti_tree import write_kitti_world
from frames.world.nuscenes_tree import write_world
from runs.config import load_config


def load_world(path: Path) -> WorldConfig | KittiWorldConfig:
    """The world that a TOML describes; its ``tree`` says as which tree.

    Raises:
        ConfigError: As ``load_config``.
    """
    return load_config(path, WORLDS[load_config(path, TreeChoice).tree])


def make_world(config: WorldConfig | KittiWorldConfig, root: Path, workers: int) -> None:
    """Write a procedural world; one of the same config is kept as it is."""
    scenes = config.train_scenes + config.val_scenes
    with progress_bar(f"world · {root}", scenes) as advance:

        def on_scene(_done: int, _total: int) -> None:
            advance(1)

        if isinstance(config, KittiWorldConfig):
            write_kitti_world(config, root, workers, on_scene)
        else:
            write_world(config, root, workers, on_scene)
