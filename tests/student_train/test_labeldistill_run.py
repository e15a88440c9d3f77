"""The multi-frame student trains under LabelDistill, from a store of the maps it reads."""

import math
from pathlib import Path

import pytest
import torch

from frames.dataset import read_frames
from runs.config import load_config
from runs.metrics import last_values
from store.reader import Cache, open_cache
from store.schema import Target
from store.writer import StoreWriter
from student_train.config import StudentRun
from student_train.methods.base import MethodContext
from student_train.methods.labeldistill import LabelDistill
from student_train.students.camera import CameraStudentConfig
from student_train.train import needs_of, train_student
from teacher_dump.dump import DumpOptions, dump, plan_dump
from tests.command import command, succeed
from tests.map_teacher import MapTeacher
from tests.tiny import write_past_student_toml
from tests.tiny_labels import write_label_encoder_toml, write_staged_teacher

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CPU = ("--device", "cpu")
CONFIGS = Path(__file__).parents[2] / "configs"


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


def test_the_whole_job_with_cached_and_with_embedded_labels(world: Path, tmp_path: Path):
    """The commands, from a teacher with stages and its label encoder to a trained student."""
    teacher = write_staged_teacher(tmp_path, world)
    labels = write_label_encoder_toml(tmp_path, world)
    made = tmp_path / "labels"
    succeed("train-label-encoder", labels, "--checkpoint", teacher, "--out", made, *CPU)
    encoder = made / "label_encoder.pt"
    student = write_past_student_toml(tmp_path, world)
    both = ("--checkpoint", teacher, *CPU)
    succeed(
        *("dump-teacher", student, "--methods", "labeldistill", "--label-encoder", encoder),
        *("--out", tmp_path / "with_labels", *both),
    )
    # Without an encoder nothing but the LiDAR's maps and the response is stored.
    said = succeed(
        *("dump-teacher", student, "--methods", "labeldistill"),
        *("--out", tmp_path / "without_labels", *both),
    )
    assert "no label maps: train-student --label-encoder computes them" in said
    held = {spec.name for spec in open_cache(tmp_path / "without_labels").fingerprint.arrays}
    assert held == {
        *("cells/stage_0", "cells/heatmap_logit", "cells/index"),
        *("coarse_cells/stage_1", "coarse_cells/index", "boxes/box_code"),
    }
    losses = []
    for store, given in (("with_labels", ()), ("without_labels", ("--label-encoder", encoder))):
        out = tmp_path / f"student_{store}"
        method = ("--method", "labeldistill", "--store", tmp_path / store)
        succeed("train-student", student, *method, *given, "--out", out, *CPU)
        losses.append(last_values(out))
    train = ("train-student", student, "--out", tmp_path / "refused", *CPU)
    code, said = command(*train, "--method", "labeldistill", "--store", tmp_path / "without_labels")
    assert code == 1
    assert "has no label_0 at cells, label_1 at coarse_cells" in said
    assert 'train-student --label-encoder, which is labels = "ground_truth"' in said
    code, said = command(*train, "--label-encoder", encoder)
    assert (code, "--method none embeds no labels with it" in said) == (2, True)
    for values in losses:
        assert values["loss/labeldistill/label"] > 0
    carried = succeed(
        *("recheck", student, tmp_path / "with_labels", "--label-encoder", encoder, *both),
        *("--rows", 2, "--carry-over", 1),
    )
    for target in ("stage_0", "stage_1", "label_0", "label_1", "boxes/box_code"):
        assert target in carried


@pytest.mark.parametrize(
    ("name", "adapter"),
    [
        ("gain_history_student", None),
        ("gain_student", None),
        ("labeldistill_student", 1_880_448),
    ],
)
def test_the_configs_students_take_the_method(name: str, adapter: int | None):
    """Also the single-frame student of the gains, so that methods compare on one student."""
    run = load_config(CONFIGS / f"{name}.toml", StudentRun)
    assert isinstance(run.student, CameraStudentConfig)
    levels = {Target.STAGE_0: 128, Target.STAGE_1: 256, Target.LABEL_0: 128, Target.LABEL_1: 256}
    context = MethodContext(
        grid=run.student.grid,
        classes=run.student.classes,
        student_channels=run.student.channels,
        teacher_channels=levels,
        student_frames=run.student.frames,
    )
    with torch.device("meta"):
        method = LabelDistill(run.methods.labeldistill, context)  # type: ignore[attr-defined]
    for adapters in (method.lidar_adaptors, method.label_adaptors):
        assert adapters is not None
        count = sum(p.numel() for p in adapters.parameters())
        assert count == adapter or adapter is None
    assert run.student.channels[Target.BEV_LOW] % run.student.frames == 0
