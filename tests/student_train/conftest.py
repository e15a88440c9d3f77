"""The tiny world's frames, and the cache that an untrained teacher leaves of them."""

from pathlib import Path

import pytest

from frames.dataset import read_frames
from frames.frame import Frame
from store.reader import Cache, open_cache
from student_train.config import StudentRun
from tests.command import succeed
from tests.teacher_dump.untrained import write_untrained_teacher
from tests.tiny import student_run, write_student_toml


@pytest.fixture(scope="session")
def store(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    succeed(
        *("dump-teacher", write_student_toml(folder, world), "--out", folder / "store"),
        *("--checkpoint", write_untrained_teacher(folder, world), "--device", "cpu"),
    )
    return folder / "store"


@pytest.fixture
def cache(store: Path) -> Cache:
    return open_cache(store)


@pytest.fixture
def run(world: Path, tmp_path: Path) -> StudentRun:
    return student_run(tmp_path, world)


@pytest.fixture
def frames(run: StudentRun) -> list[Frame]:
    return read_frames(run.data)
