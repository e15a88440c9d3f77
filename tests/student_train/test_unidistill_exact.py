"""UniDistill from a cache against UniDistill with its teacher in the loop, on the tiny world."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

from frames.augment import BevAugment, BevAugmentConfig
from frames.boxes import BoxBatch, Boxes3D
from frames.dataset import read_frames
from frames.loading import load_points
from runs.checkpoint import load_checkpoint
from runs.config import load_config
from runs.metrics import last_values
from store.reader import open_cache
from store.schema import Target
from student_train.config import StudentRun
from student_train.data import StudentDataset
from student_train.methods.base import Method, MethodResult, StudentMaps, TeacherTargets
from student_train.train import StudentTraining, needs_of
from teacher_dump.centerpoint_teacher import CenterPointTeacher
from teacher_dump.teachers import own_teacher
from tests.command import command, succeed
from tests.literal_unidistill import Form, literal
from tests.student_train.seen import seen
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
    none = wide.replace('adapters = "conv1x1"', f'adapters = "none"\n{table}')
    path.write_text(f'method = "unidistill"\n{none}')
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Online:
    """One frame of a student's training, and its teacher run on the very same points."""

    method: Method
    student: StudentMaps
    targets: TeacherTargets
    truth: Boxes3D
    teacher: dict[Target, Tensor]

    def from_cache(self) -> dict[str, Tensor]:
        """The method's weighted terms."""
        boxes = BoxBatch.pad([self.truth])
        result: MethodResult = self.method(self.student, self.targets, boxes)
        return dict(result.terms)

    def in_the_loop(self, form: Form) -> dict[str, Tensor]:
        """The same, literally, from the teacher's whole maps."""
        grid = self.method.context.grid
        feature, relation, class_, box = literal(
            dense(self.student), self.teacher, [self.truth], grid, form
        )
        # The weights of LiDAR to camera.
        return {
            "feature": 100 * feature,
            "relation": 40 * relation,
            "response": 10 * (class_ + box),
        }

    def gradient(self, term: Tensor) -> Tensor:
        """Of a term, on all of the student's maps."""
        head = self.student.center
        maps = [*self.student.features.values(), head.heatmap_logit, head.box_code]
        found = torch.autograd.grad(term, maps, retain_graph=True, materialize_grads=True)
        return torch.cat([gradient.flatten() for gradient in found])


def dense(maps: StudentMaps) -> dict[Target, Tensor]:
    code = maps.center.box_code.flatten(1, 2)
    return {**maps.features, Target.HEATMAP_LOGIT: maps.center.heatmap_logit, Target.BOX_CODE: code}


def online(folder: Path, store: str) -> Iterator[Online]:
    run = load_config(folder / "student.toml", StudentRun)
    # Canonical targets are exact where the BEV frame is not augmented.
    run = run.model_copy(update={"bev_augment": BevAugmentConfig()})
    cache = open_cache(folder / store)
    torch.manual_seed(0)
    training = StudentTraining(run, cache)
    teacher = own_teacher(load_checkpoint(folder / "teacher.pt"), torch.device("cpu"))
    assert isinstance(teacher, CenterPointTeacher)
    frames = read_frames(run.data)
    swept = read_frames(run.data.model_copy(update={"sweeps": teacher.info.sweeps}))
    data = StudentDataset(frames, run, cache, needs_of(run))
    for position in range(2):
        batch = data.collate([data[position, position]])
        augment = BevAugment(seen(batch).geometry.augmented_from_ego[0, [0, 1]][:, [0, 1, 3]])
        with torch.inference_mode():
            said = teacher.network([augment.points(load_points(swept[position]))])
        head = said.head
        yield Online(
            method=cast("Method", training.methods["unidistill"]),
            student=training.network(batch.seen).maps,
            targets=batch.targets,
            truth=augment.boxes3d(frames[position].boxes),
            teacher={
                Target.BEV_LOW: said.bev_low,
                Target.BEV_HIGH: said.bev_high,
                Target.HEATMAP_LOGIT: head.heatmap_logit,
                Target.BOX_CODE: head.box_code.flatten(1, 2),
            },
        )


@pytest.mark.parametrize("store", ["canonical", "views"])
def test_loss_and_gradient_are_those_of_a_teacher_in_the_loop(folder: Path, store: str):
    """To the last digits if its values are rounded to float16 at the places, as a cache does.

    If not, a term moves by no more than its values do, and a gradient where the two all but agree.
    """
    for frame in online(folder, store):
        cached, live = frame.from_cache(), frame.in_the_loop(Form())
        rounded = frame.in_the_loop(Form(kept=lambda value: value.half().float()))
        largest = max(1.0, *(values.abs().max().item() for values in frame.teacher.values()))
        for name, weight in {"feature": 100, "relation": 40, "response": 20}.items():
            found = cached[name].item()
            assert found == pytest.approx(rounded[name].item(), rel=1e-5), name
            assert abs(found - live[name].item()) < weight * largest * 2**-11, name
            gradient = frame.gradient(cached[name])
            for other, bound in ((rounded, 1e-5), (live, 0.05)):
                gap = frame.gradient(other[name]) - gradient
                assert (gap.norm() / gradient.norm()).item() < bound, name


HELD = {
    "feature": {"points/bev_low"},
    "relation": {"boxes/relation"},
    "response": {"cells/index", "cells/heatmap_logit", "cells/box_code"},
}


@pytest.mark.parametrize("left", HELD)
def test_a_term_alone_trains_from_either_dump(folder: Path, world: Path, tmp_path: Path, left: str):
    """From what was dumped for all terms as from a dump of its own, which holds no more."""
    off = "".join(f"{term} = {{ weight = 0 }}\n" for term in HELD if term != left)
    path, own = write_toml(tmp_path, world, off), tmp_path / "store"
    checkpoint = folder / "teacher.pt"
    succeed(
        *("dump-teacher", path, "--checkpoint", checkpoint, "--out", own, *CPU),
        *("--methods", "unidistill"),
    )
    assert {spec.name for spec in open_cache(own).fingerprint.arrays} == HELD[left]
    logged = []
    for name, store in {"all": folder / "canonical", "own": own}.items():
        succeed("train-student", path, "--store", store, "--out", tmp_path / name, *CPU)
        values = last_values(tmp_path / name)
        logged.append({key: v for key, v in values.items() if key.startswith(("loss", "share"))})
    assert logged[0] == logged[1]
    assert [key for key in logged[0] if "unidistill" in key] == [
        f"{kind}/unidistill/{left}" for kind in ("loss", "share")
    ]
    refused = ("--store", own, "--out", tmp_path / "refused", *CPU)
    code, said = command("train-student", folder / "student.toml", *refused)
    assert code == 1
    assert "has no " in said


def test_recheck_says_what_carrying_over_costs(folder: Path):
    common = ("recheck", folder / "student.toml", folder / "canonical", "--carry-over", 1)
    found = json.loads(succeed(*common, "--checkpoint", folder / "teacher.pt", "--json", *CPU))
    parts = ("offset", "height", "log_size", "heading", "velocity")
    assert {entry["target"] for entry in found} == {
        *("points/bev_low", "boxes/relation", "heatmap_logit"),
        *(f"box_code/{part}" for part in parts),
    }


def test_another_width_is_refused_with_a_way_out(folder: Path, world: Path, tmp_path: Path):
    path = write_student_toml(tmp_path, world)
    adapted = path.read_text()
    path.write_text(adapted.replace('adapters = "conv1x1"', 'adapters = "none"'))
    arguments = ("--store", folder / "canonical", "--out", tmp_path / "student", *CPU)
    code, said = command("train-student", path, "--method", "unidistill", *arguments)
    assert code == 1
    assert "the student's has 6, the cached teacher's 8" in said
    path.write_text(adapted.replace("conv1x1", "conv3x3"))
    succeed("train-student", path, "--method", "unidistill", *arguments)
    weights = load_checkpoint(tmp_path / "student" / "student.pt").weights
    assert not [name for name in weights if "adapt" in name]


def test_released_forms_want_a_dump_of_their_own(folder: Path, world: Path, tmp_path: Path):
    """Whole maps for the transposed places; the cell at the origin for the padding."""
    flags = "transpose_bug = true\npad_artifact = true\n"
    path = write_toml(tmp_path, world, flags)
    out = ("--out", tmp_path / "student", *CPU)
    code, said = command("train-student", path, "--store", folder / "canonical", *out)
    assert code == 1
    assert "bev_high at map, bev_low at map, box_code at cells (origin; it holds those of: " in said
    assert "heatmap_logit at cells (origin; " in said
    text = path.read_text()
    for key in ("flip_x = 0.5\n", "shift = 0.5\n", "rotation = 0.3\n", "scale = [0.95, 1.05]\n"):
        text = text.replace(key, "")
    path.write_text(text)
    options = ("--methods", "unidistill", "--out", tmp_path / "store", *CPU)
    succeed("dump-teacher", path, "--checkpoint", folder / "teacher.pt", *options)
    succeed("train-student", path, "--store", tmp_path / "store", *out)
