"""UniDistill from a cache against UniDistill with its teacher in the loop, on the tiny world."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from frames.boxes import BoxBatch, Boxes3D
from frames.dataset import read_frames
from frames.loading import load_points
from runs.checkpoint import load_checkpoint
from runs.config import load_config
from store.reader import Cache, open_cache
from store.schema import Target
from student_train.config import StudentRun
from student_train.data import StudentDataset
from student_train.methods.base import StudentMaps
from student_train.train import StudentTraining, needs_of
from teacher_dump.teachers import CenterPointTeacher, own_teacher
from tests.command import command, succeed
from tests.literal_unidistill import Form, Maps, literal
from tests.teacher_dump.untrained import write_untrained_teacher
from tests.tiny import write_student_toml

CPU = ("--device", "cpu")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def write_toml(folder: Path, world: Path, table: str = "") -> Path:
    """A student whose low-level map is as wide as the teacher's."""
    path = write_student_toml(folder, world)
    text = path.read_text()
    wide = text.replace("context_channels = 6", "context_channels = 8")
    wide = wide.replace(
        "[student.backbone]\nin_channels = 6", "[student.backbone]\nin_channels = 8"
    )
    assert wide != text
    path.write_text(f'method = "unidistill"\n{wide}\n[methods.unidistill]\n{table}')
    return path


@pytest.fixture(scope="module")
def folder(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher, what UniDistill reads of it, and that of three views of each frame."""
    folder = tmp_path_factory.mktemp("unidistill")
    toml, checkpoint = write_toml(folder, world), write_untrained_teacher(folder, world)
    common = ("dump-teacher", toml, "--checkpoint", checkpoint, "--methods", "unidistill", *CPU)
    succeed(*common, "--out", folder / "canonical")
    succeed(*common, "--out", folder / "views", "--views", 3)
    return folder


@pytest.mark.parametrize("method", ["unidistill", "unidistill+xgd"])
def test_it_trains_from_a_dump_of_its_own(folder: Path, tmp_path: Path, method: str):
    store = tmp_path / "store"
    succeed(
        *("dump-teacher", folder / "student.toml", "--checkpoint", folder / "teacher.pt"),
        *("--methods", method.replace("+", ","), "--out", store, *CPU),
    )
    succeed(
        *("train-student", folder / "student.toml", "--method", method, "--store", store),
        *("--out", tmp_path / "student", *CPU),
    )
    logged = (tmp_path / "student" / "metrics.csv").read_text().splitlines()[0].split(",")
    for term in ("feature", "relation", "response"):
        assert {f"loss/unidistill/{term}", f"share/unidistill/{term}"} <= set(logged)
    assert {"unidistill/response/class", "unidistill/response/box"} <= set(logged)
    assert ("loss/xgd/box" in logged) == ("xgd" in method)
