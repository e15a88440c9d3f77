"""Shapes in signatures are checked on import (jaxtyping + beartype); a tiny world is shared."""

from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

import tests.typechecker  # noqa: F401  (the hook finds it by attribute)

install_import_hook(
    ["commands", "frames", "store", "nets", "runs", "teacher_dump", "student_train"],
    "tests.typechecker.checked",
)

# A busy machine is no failure of a property.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A procedural world of one training and one validation scene, three frames each."""
    from frames.world.config import WorldConfig
    from frames.world.nuscenes_tree import write_world

    root = tmp_path_factory.mktemp("world")
    config = WorldConfig(
        train_scenes=1,
        val_scenes=1,
        frames_per_scene=3,
        image_size=(48, 132),
        beams=16,
        azimuth_steps=180,
        objects_per_frame=(20, 24),
    )
    write_world(config, root, workers=1)
    return root


@pytest.fixture(scope="session")
def kitti_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A KITTI tree of three frames a split."""
    from frames.world.config import KittiWorldConfig
    from frames.world.kitti_tree import write_kitti_world

    root = tmp_path_factory.mktemp("kitti_world")
    config = KittiWorldConfig(
        train_scenes=1,
        val_scenes=1,
        frames_per_scene=3,
        image_size=(32, 96),
        beams=12,
        azimuth_steps=360,
        lidar_range=40,
        objects_per_frame=(30, 40),
    )
    write_kitti_world(config, root, 1)
    return root
