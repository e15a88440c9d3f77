"""Making a world, with progress."""

from pathlib import Path

from commands.progress import progress_bar
from frames.world.config import WorldConfig
from frames.world.generate import write_world


def make_world(config: WorldConfig, root: Path, workers: int) -> None:
    """Write a procedural world; one of the same config is kept as it is."""
    scenes = config.train_scenes + config.val_scenes
    with progress_bar(f"world · {root}", scenes) as advance:
        write_world(config, root, workers, on_scene=lambda _done, _total: advance(1))
