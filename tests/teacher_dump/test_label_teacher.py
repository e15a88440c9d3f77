"""Stages and label maps on their way into a store, through the commands."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from frames.boxes import BoxBatch, Boxes3D
from frames.dataset import read_frames
from frames.frame import Frame
from frames.heatmap import CENTER_HEAD
from frames.loading import load_points
from nets.label_encoder import LabelEncoder, frozen_label_encoder
from runs.checkpoint import load_checkpoint, save_checkpoint
from runs.errors import CheckpointError
from store.choices import Coverage
from store.errors import FingerprintError, PlanError
from store.plan import plan_arrays
from store.reader import open_cache
from store.rows import CachedRow, rows_of_frames
from store.schema import Need, Places, Target
from store.writer import StoreWriter
from teacher_dump.centerpoint_teacher import CenterPointTeacher
from teacher_dump.defaults import OWN_TEACHER
from teacher_dump.dump import DumpOptions, plan_dump
from teacher_dump.dump import dump as write_dump
from teacher_dump.label_teacher import LabelTeacher, label_needs
from teacher_dump.part_task import DumpJob, write_part
from teacher_dump.protocol import Teacher
from teacher_dump.recheck import draw_rows, recheck
from teacher_dump.stages import LABELS, STAGES, of_stages
from teacher_dump.teacher_rows import teacher_rows
from teacher_dump.teachers import own_teacher
from tests.command import command, succeed
from tests.teacher_dump.untrained import write_untrained_teacher
from tests.tiny import teacher_run, write_student_toml
from tests.tiny_labels import label_encoder_run, write_staged_teacher

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CPU = torch.device("cpu")
STAGE_NEEDS = [Need(Target.STAGE_0, Places.CELLS), Need(Target.STAGE_1, Places.COARSE_CELLS)]


def write_encoder(path: Path, world: Path, teacher: Path, seed: int = 0) -> Path:
    """An untrained one's checkpoint."""
    run = label_encoder_run(path.parent, world)
    torch.manual_seed(seed)
    network = LabelEncoder(run.encoder)
    # Untrained norms make all maps alike.
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    notes = {"teacher_sha256": load_checkpoint(teacher).sha256}
    save_checkpoint(path, "label_encoder", run.model_dump(mode="json"), network, notes)
    return path


@pytest.fixture(scope="module")
def made(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher.pt and its label_encoder.pt."""
    folder = tmp_path_factory.mktemp("labelled")
    teacher = write_staged_teacher(folder, world)
    write_encoder(folder / "label_encoder.pt", world, teacher)
    return folder


@pytest.fixture
def plain(made: Path) -> CenterPointTeacher:
    teacher = own_teacher(load_checkpoint(made / "teacher.pt"), CPU)
    assert isinstance(teacher, CenterPointTeacher)
    return teacher


@pytest.fixture
def teacher(made: Path, plain: CenterPointTeacher) -> LabelTeacher:
    return LabelTeacher(plain, made / "label_encoder.pt", CPU)


@pytest.fixture
def dump(made: Path, world: Path, tmp_path: Path) -> Callable[..., Path]:
    toml = write_student_toml(tmp_path, world)

    def run(name: str, *options: object) -> Path:
        succeed(
            *("dump-teacher", toml, "--checkpoint", made / "teacher.pt", "--device", "cpu"),
            *("--out", tmp_path / name, *options),
        )
        return tmp_path / name

    return run


def on_the_fly(made: Path, boxes: Boxes3D) -> list[Tensor]:
    """As a student's step computes them: a frozen encoder, ground truth, nothing else."""
    checkpoint = load_checkpoint(made / "label_encoder.pt", "label_encoder")
    encoder = frozen_label_encoder(checkpoint.config, checkpoint.load_into, CPU)
    # A method owns it as a sub-module, and the trainer puts the method in train mode.
    assert not nn.ModuleList([encoder]).train()[0].training
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    return [map_[0] for map_ in encoder(BoxBatch.pad([boxes]))]


def check_row(made: Path, row: CachedRow) -> int:
    """The stored label maps are those computed on the fly, to float16; returns how many cells."""
    expected = on_the_fly(made, row.gt)
    assert [tuple(map_.shape) for map_ in expected] == [(6, 16, 16), (10, 8, 8)]
    cells = 0
    for k, places in enumerate((Places.CELLS, Places.COARSE_CELLS)):
        index = row.arrays[f"{places}/index"]
        stored = torch.from_numpy(row.arrays[f"{places}/label_{k}"])
        assert stored.dtype == torch.float16
        wanted = expected[k].flatten(1)[:, index].T
        gap = (stored.float() - wanted).abs() / wanted.abs().clamp(min=1)
        # Beside the rounding: the dump's batch may be computed in another order.
        assert gap.max() <= 2**-11 + 1e-5
        assert wanted.std() > 0.05
        cells += len(index)
    return cells


@pytest.mark.parametrize("views", [1, 2])
def test_stored_label_maps_are_those_computed_on_the_fly(
    made: Path, dump: Callable[..., Path], views: int
):
    store = dump("store", "--label-encoder", made / "label_encoder.pt", "--views", views)
    cache = open_cache(store)
    assert cache.fingerprint.label_encoder == load_checkpoint(made / "label_encoder.pt").sha256
    for token in cache.tokens:
        rows = [cache.row(token, view) for view in range(views)]
        assert len({row.gt.values.sum().item() for row in rows}) == views
        assert all(check_row(made, row) > 50 for row in rows)


def test_dense_stores_hold_the_whole_maps(made: Path, dump: Callable[..., Path]):
    store = dump("dense", "--label-encoder", made / "label_encoder.pt", "--coverage", "dense")
    cache = open_cache(store)
    row = cache[cache.tokens[1]]
    for k, expected in enumerate(on_the_fly(made, row.gt)):
        stored = torch.from_numpy(row.arrays[f"label_{k}"]).float()
        torch.testing.assert_close(stored, expected, rtol=2**-11, atol=2**-11)
    assert {"cells/index", "coarse_cells/index"} <= row.arrays.keys()


def test_recheck_takes_the_same_encoder_and_no_other(
    made: Path, world: Path, dump: Callable[..., Path], tmp_path: Path
):
    store = dump("store", "--label-encoder", made / "label_encoder.pt", "--views", 2)
    common = ("recheck", tmp_path / "student.toml", store, "--checkpoint", made / "teacher.pt")
    text = succeed(
        *(*common, "--label-encoder", made / "label_encoder.pt", "--json", "--device", "cpu")
    )
    checks = {check["array"]: check for check in json.loads(text)}
    assert all(check["passed"] for check in checks.values())
    assert {"cells/label_0", "coarse_cells/label_1"} <= checks.keys()
    other = write_encoder(tmp_path / "other.pt", world, made / "teacher.pt", seed=1)
    for options in ((), ("--label-encoder", other)):
        code, text = command(*common, *options, "--device", "cpu")
        assert code == 1
        assert "label_encoder: found '" in text
        assert "and its --label-encoder if any" in text


def test_an_encoder_of_another_teacher_is_refused(
    made: Path, world: Path, tmp_path: Path, plain: CenterPointTeacher
):
    stranger = write_encoder(
        tmp_path / "stranger.pt", world, write_untrained_teacher(tmp_path, world)
    )
    with pytest.raises(CheckpointError, match="was trained for the teacher of checkpoint"):
        LabelTeacher(plain, stranger, CPU)
    code, text = command(
        *("dump-teacher", write_student_toml(tmp_path, world), "--out", tmp_path / "store"),
        *("--checkpoint", made / "teacher.pt", "--label-encoder", made / "teacher.pt"),
        *("--device", "cpu"),
    )
    assert (code, "holds a teacher, expected a label_encoder" in text) == (1, True)


def test_a_worker_writes_them_too(made: Path, world: Path, tmp_path: Path, teacher: LabelTeacher):
    data = teacher_run(tmp_path, world).data
    frames = read_frames(data)
    assert isinstance(teacher, Teacher)
    needs = label_needs(teacher.info)
    plan = plan_dump(teacher, frames, data, needs, DumpOptions())
    writer = StoreWriter.open(tmp_path / "parts", plan.fingerprint, rows_of_frames(frames))
    job = DumpJob(
        store=writer.path,
        plan_hash=writer.plan_hash,
        factory=OWN_TEACHER,
        checkpoint=made / "teacher.pt",
        label_encoder=made / "label_encoder.pt",
        device="cpu",
        batch_size=2,
    )
    with pytest.raises(FingerprintError, match="label_encoder: found None, expected"):
        write_part(replace(job, label_encoder=None), range(3), frames)
    write_part(job, range(3), frames)
    assert writer.pending_parts == []


def test_stores_with_and_without_label_maps_merge(
    made: Path, world: Path, dump: Callable[..., Path], tmp_path: Path
):
    encoder = load_checkpoint(made / "label_encoder.pt").sha256
    one = dump("one", "--methods", "xgd")
    two = dump("two", "--methods", "imitation", "--label-encoder", made / "label_encoder.pt")
    succeed("merge", one, two, tmp_path / "merged")
    merged = open_cache(tmp_path / "merged")
    assert merged.fingerprint.label_encoder == encoder
    assert {"boxes/centre", "cells/label_0"} <= merged[merged.tokens[0]].arrays.keys()
    other = write_encoder(tmp_path / "other.pt", world, made / "teacher.pt", seed=1)
    three = dump("three", "--methods", "xgd", "--label-encoder", other)
    code, text = command("merge", one, two, three, tmp_path / "no")
    assert (code, "label_encoder: found '" in text) == (1, True)


def test_stages_are_the_backbones_own(plain: CenterPointTeacher, world: Path, tmp_path: Path):
    frames: list[Frame] = read_frames(teacher_run(tmp_path, world).data)
    arrays = plan_arrays(STAGE_NEEDS, Coverage.FOREGROUND, plain.info.shapes)
    (row,) = teacher_rows(plain, frames[:1], arrays, [CENTER_HEAD])
    with torch.inference_mode():
        maps = plain.network([load_points(frames[0])])
        stages = plain.network.backbone(maps.bev_low)
    for places, own, stage in (("cells", 16, stages[0]), ("coarse_cells", 8, stages[1])):
        index = row.arrays[f"{places}/index"].tolist()
        k = 0 if own == 16 else 1
        assert len(index) > 20
        for at, cell in enumerate(index):
            expected = stage[0, :, cell // own, cell % own].tolist()
            assert row.arrays[f"{places}/stage_{k}"][at].tolist() == pytest.approx(
                expected, abs=1e-5
            )


@pytest.mark.parametrize("coverage", list(Coverage))
def test_stores_of_stages_pass_a_recheck(
    plain: CenterPointTeacher, world: Path, tmp_path: Path, coverage: Coverage
):
    data = teacher_run(tmp_path, world).data
    frames = read_frames(data)
    plan = plan_dump(plain, frames, data, STAGE_NEEDS, DumpOptions(coverage=coverage))
    write_dump(plain, frames, StoreWriter.open(tmp_path / "s", plan.fingerprint, plan.rows))
    cache = open_cache(tmp_path / "s")
    checks = {c.array: c for c in recheck(plain, cache, draw_rows(cache, frames, 3, seed=0))}
    names = {
        Coverage.DENSE: {"stage_0", "stage_1"},
        Coverage.FOREGROUND: {"cells/stage_0", "coarse_cells/stage_1"},
    }[coverage]
    assert names | {"cells/index", "coarse_cells/index"} <= checks.keys()
    assert all(check.passed for check in checks.values())


def test_what_carrying_label_maps_over_costs_is_measured(
    made: Path, dump: Callable[..., Path], tmp_path: Path
):
    encoder = ("--label-encoder", made / "label_encoder.pt")
    store = dump("store", *encoder)
    text = succeed(
        *("recheck", tmp_path / "student.toml", store, "--checkpoint", made / "teacher.pt"),
        *(*encoder, "--carry-over", 1, "--rows", 2, "--json", "--device", "cpu"),
    )
    errors = {error["target"]: error["relative_l2"] for error in json.loads(text)}
    # A turned box is no turned map of the box.
    assert errors["label_0"] > 0.01


def test_a_teacher_of_one_stage_gives_one(world: Path, tmp_path: Path):
    path = write_untrained_teacher(tmp_path, world)
    info = own_teacher(load_checkpoint(path), CPU).info
    assert info.shapes.further == {Target.STAGE_0: 8}
    with pytest.raises(PlanError, match="a method reads stage_1, which this teacher does not give"):
        plan_arrays(STAGE_NEEDS, Coverage.FOREGROUND, info.shapes)
    with pytest.raises(PlanError, match="a method reads label_0, which this teacher does not give"):
        plan_arrays([Need(Target.LABEL_0, Places.CELLS)], Coverage.FOREGROUND, info.shapes)
    assert label_needs(info) == []


def test_stages_by_their_strides():
    assert of_stages(STAGES, (1, 2, 4)) == [(Target.STAGE_0, 0), (Target.STAGE_1, 1)]
    assert of_stages(LABELS, (2, 2)) == [(Target.LABEL_1, 0)]
