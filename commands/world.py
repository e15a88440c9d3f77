"""Making a world, with progress."""

from pathlib import Path

from commands.progress import progress_bar
from frames.world.config import KittiWorldConfig, WorldConfig
from frames.world.generate import write_world
from frames.world.kitti_tree import write_kitti_world


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
