"""A tiny CenterPoint with random weights, and a world long enough for two parts of a store."""

from pathlib import Path

import pytest
import torch

from frames.dataset import read_frames
from frames.frame import Frame
from runs.checkpoint import load_checkpoint
from teacher_dump.centerpoint_teacher import CenterPointTeacher
from teacher_dump.teachers import own_teacher
from tests.teacher_dump.untrained import write_untrained_teacher
from tests.tiny import teacher_run


@pytest.fixture(scope="session")
def long_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One scene of 18 frames to train on: a part of a store holds 16."""
    from frames.world.config import WorldConfig
    from frames.world.nuscenes_tree import write_world

    root = tmp_path_factory.mktemp("long_world")
    config = WorldConfig(
        train_scenes=1,
        val_scenes=1,
        frames_per_scene=18,
        image_size=(48, 132),
        beams=8,
        azimuth_steps=90,
        objects_per_frame=(8, 10),
    )
    write_world(config, root, workers=1)
    return root


@pytest.fixture(scope="session")
def checkpoint(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_untrained_teacher(tmp_path_factory.mktemp("teacher"), world)


@pytest.fixture
def teacher(checkpoint: Path) -> CenterPointTeacher:
    teacher = own_teacher(load_checkpoint(checkpoint), torch.device("cpu"))
    assert isinstance(teacher, CenterPointTeacher)
    return teacher


@pytest.fixture
def frames(world: Path, tmp_path: Path) -> list[Frame]:
    return read_frames(teacher_run(tmp_path, world).data)
