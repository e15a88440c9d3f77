"""The multi-frame student trains under LabelDistill, from a store of the maps it reads."""

import math
from pathlib import Path

import pytest

from frames.dataset import read_frames
from runs.config import load_config
from runs.metrics import last_values
from store.reader import Cache, open_cache
from store.writer import StoreWriter
from student_train.config import StudentRun
from student_train.train import needs_of, train_student
from teacher_dump.dump import DumpOptions, dump, plan_dump
from tests.map_teacher import MapTeacher
from tests.tiny import write_past_student_toml

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def run(world: Path, tmp_path: Path) -> StudentRun:
    path = write_past_student_toml(tmp_path, world)
    return load_config(path, StudentRun).model_copy(update={"method": "labeldistill"})


def dumped(run: StudentRun, path: Path) -> Cache:
    frames, teacher = read_frames(run.data), MapTeacher(run.student.grid)
    plan = plan_dump(teacher, frames, run.data, needs_of(run), DumpOptions())
    writer = StoreWriter.open(path, plan.fingerprint, plan.rows)
    dump(teacher, frames, writer, batch_size=2)
    return open_cache(path)


def test_it_trains(run: StudentRun, tmp_path: Path):
    cache = dumped(run, tmp_path / "store")
    train_student(run, cache, tmp_path / "out", resume=False, device="cpu")
    logged = last_values(tmp_path / "out")
    for term in ("lidar", "label", "heatmap", "box"):
        assert math.isfinite(logged[f"loss/labeldistill/{term}"])
        assert logged[f"loss/labeldistill/{term}"] > 0
        assert logged[f"share/labeldistill/{term}"] > 0
