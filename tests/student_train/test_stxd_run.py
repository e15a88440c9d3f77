"""STXD through the normal commands: dump, train, recheck, with flips, views and both teachers."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from frames.detections import Detections
from nets.center_head import CenterMaps
from runs.config import load_config
from runs.metrics import last_values
from store.reader import open_cache
from store.schema import Target
from student_train.config import StudentRun
from student_train.methods.base import MethodContext
from student_train.methods.stxd import Stxd, StxdConfig
from student_train.students.camera import CameraStudentConfig
from student_train.train import build_methods
from teacher_dump.centerpoint_teacher import CenterPointTeacher
from tests.command import command, succeed
from tests.teacher_dump.untrained import write_untrained_teacher
from tests.tiny import write_past_student_toml
from tests.tiny_unidistill import write_teacher_toml
from tests.web_server import served

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CPU = ("--device", "cpu")
CONFIGS = Path(__file__).parents[2] / "configs"
ARRAYS = ("centre", "size", "yaw", "velocity", "score", "object", "iou", "probability")
TABLE = "[methods.stxd]\nrandom_cells = 9\npast = [-1, -2, -5]\n"


def student_toml(folder: Path, world: Path, table: str = TABLE) -> Path:
    path = write_past_student_toml(folder, world)
    path.write_text(path.read_text() + table)
    return path


def trained(student: Path, store: Path | str, out: Path) -> dict[str, float]:
    succeed("train-student", student, "--method", "stxd", "--store", store, "--out", out, *CPU)
    return last_values(out)


@pytest.mark.parametrize("views", [1, 2])
def test_the_whole_job(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, views: int):
    """The student's frames are augmented; the scene has three frames, and a step asks for five."""
    monkeypatch.setenv("BEVCACHE_MIRROR", str(tmp_path / "mirror"))
    student, store = student_toml(tmp_path, world), tmp_path / "store"
    both = ("--checkpoint", write_untrained_teacher(tmp_path, world), *CPU)
    said = succeed(
        *("dump-teacher", student, "--methods", "stxd", "--views", views, "--out", store, *both)
    )
    assert "detections/iou" in said
    arrays = {spec.name for spec in open_cache(store).fingerprint.arrays}
    assert arrays == {f"detections/{name}" for name in ARRAYS} | {"cells/bev_high", "cells/index"}
    assert "detections/probability" in succeed("info", store)
    logged = trained(student, store, tmp_path / "out")
    for term in ("cd", "td", "rd"):
        assert math.isfinite(logged[f"loss/stxd/{term}"])
        assert logged[f"loss/stxd/{term}"] > 0
        assert logged[f"share/stxd/{term}"] > 0
    assert logged["stxd/rows"] > 9
    assert 0 < logged["stxd/quality"] < 1
    checks = json.loads(succeed("recheck", student, store, "--rows", 6, "--json", *both))
    assert all(check["passed"] for check in checks)
    assert {f"detections/{name}" for name in ARRAYS} <= {check["array"] for check in checks}
    with served(tmp_path) as url:
        again = trained(student, f"{url}/store", tmp_path / "remote")
    assert {k: v for k, v in again.items() if k.startswith("loss")} == {
        k: v for k, v in logged.items() if k.startswith("loss")
    }
    if views == 1:
        carried = succeed("recheck", student, store, "--rows", 2, "--carry-over", 1, *both)
        assert all(name in carried for name in ("bev_high", "detections/centre", "detections/iou"))


def test_recheck_sees_a_detection_that_is_not_the_teachers(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """One is missing now, or one has moved."""
    both = ("--checkpoint", write_untrained_teacher(tmp_path, world), *CPU)
    student, store = student_toml(tmp_path, world), tmp_path / "store"
    succeed("dump-teacher", student, "--methods", "stxd", "--out", store, *both)
    decode = CenterPointTeacher._decode

    def without_the_best(self: CenterPointTeacher, head: CenterMaps) -> list[Detections]:
        def rest(values: Tensor | None) -> Tensor:
            assert values is not None
            return values[1:]

        return [
            Detections(rest(d.boxes), rest(d.labels), rest(d.scores), rest(d.cells))
            for d in decode(self, head)
        ]

    def higher(self: CenterPointTeacher, head: CenterMaps) -> list[Detections]:
        lift = torch.eye(9)[2]
        return [replace(d, boxes=d.boxes + 0.01 * lift) for d in decode(self, head)]

    for wrong, said in ((without_the_best, "not comparable"), (higher, "OUTSIDE")):
        monkeypatch.setattr(CenterPointTeacher, "_decode", wrong)
        code, text = command("recheck", student, store, "--rows", 2, *both)
        assert code == 1
        (line,) = (line for line in text.splitlines() if "detections/centre" in line)
        assert said in text
        assert "OUTSIDE" in line


def test_a_camera_teacher_tells_its_detections_too(world: Path, tmp_path: Path):
    config = write_teacher_toml(tmp_path, world, "camera", depth=1.0)
    succeed("train-teacher", config, "--kind", "camera", "--out", tmp_path / "teacher", *CPU)
    both = ("--checkpoint", tmp_path / "teacher" / "teacher.pt", *CPU)
    student, store = student_toml(tmp_path, world), tmp_path / "store"
    succeed("dump-teacher", student, "--methods", "stxd", "--out", store, *both)
    assert trained(student, store, tmp_path / "out")["loss/stxd/rd"] > 0
    checks = json.loads(succeed("recheck", student, store, "--rows", 6, "--json", *both))
    assert all(check["passed"] for check in checks)


def test_answers_at_the_same_cell_are_dumped_and_followed(world: Path, tmp_path: Path):
    """By the score alone: an untrained teacher's boxes overlap nothing."""
    both = ("--checkpoint", write_untrained_teacher(tmp_path, world), *CPU)
    table = TABLE + 'response = { pairs = "same_cell", gamma = 0 }\n'
    weights = (*[1.0] * 8, 0.5, 0.5)
    table += f"[student.loss]\ncode = {list(weights)}\n"
    student, store = student_toml(tmp_path, world, table), tmp_path / "store"
    succeed("dump-teacher", student, "--methods", "stxd", "--out", store, *both)
    cache = open_cache(store)
    arrays = {spec.name for spec in cache.fingerprint.arrays}
    assert arrays == {"boxes/box_code", "cells/heatmap_logit", "cells/bev_high", "cells/index"}
    assert trained(student, store, tmp_path / "out")["loss/stxd/rd"] > 0
    run = load_config(student, StudentRun).model_copy(update={"method": "stxd"})
    method = build_methods(run, cache)["stxd"]
    assert isinstance(method, Stxd)
    assert method.response.code == weights


def test_a_store_without_the_rows_is_refused(world: Path, tmp_path: Path):
    """Also one whose random cells are others."""
    both = ("--checkpoint", write_untrained_teacher(tmp_path, world), *CPU)
    student = student_toml(tmp_path, world)
    for methods, name in (("imitation", "without"), ("stxd", "nine")):
        succeed("dump-teacher", student, "--methods", methods, "--out", tmp_path / name, *both)
    train = ("train-student", student, "--method", "stxd", "--out", tmp_path / "out", *CPU)
    code, said = command(*train, "--store", tmp_path / "without")
    assert code == 1
    assert "has no bev_high at cells (random count=9; it holds those of: gaussian" in said
    assert "detections at detections" in said
    student_toml(tmp_path, world, "[methods.stxd]\nrandom_cells = 10\n")
    code, said = command(*train, "--store", tmp_path / "nine")
    assert code == 1
    assert "has no bev_high at cells (random count=10; it holds those of: " in said


@pytest.mark.parametrize(("name", "wide"), [("stxd_student", 512), ("gain_history_student", 64)])
def test_the_configs_students_take_the_method(name: str, wide: int):
    run = load_config(CONFIGS / f"{name}.toml", StudentRun)
    assert isinstance(run.student, CameraStudentConfig)
    context = MethodContext(
        grid=run.student.grid,
        classes=run.student.classes,
        student_channels=run.student.channels,
        teacher_channels={Target.BEV_HIGH: wide},
        student_frames=run.student.frames,
    )
    config = run.methods.stxd  # type: ignore[attr-defined]
    assert isinstance(config, StxdConfig)
    with torch.device("meta"):
        method = Stxd(config, context)
    parameters = sum(p.numel() for p in method.parameters())
    own = run.student.channels[Target.BEV_HIGH]
    assert parameters == (0 if own == wide else (own + 1) * wide)
