"""What a dump writes of a CenterPoint, held against slow and literal readings."""

import math
import resource
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from frames.augment import BevAugment
from frames.boxes import BoxBatch, Boxes3D
from frames.cell_masks import foreground_cells
from frames.dataset import read_frames
from frames.frame import Frame
from frames.heatmap import CENTER_HEAD
from frames.loading import load_points
from nets.center_head import CenterMaps
from runs.checkpoint import load_checkpoint
from store.choices import Coverage
from store.errors import StoreWriteError
from store.plan import plan_arrays
from store.reader import open_cache
from store.rows import rows_of_frames
from store.schema import Need, Places, Target
from store.writer import StoreWriter
from teacher_dump.centerpoint_teacher import CenterPointTeacher
from teacher_dump.dump import DumpOptions, dump, plan_dump
from teacher_dump.errors import TeacherError
from teacher_dump.protocol import TeacherOutput
from teacher_dump.teacher_rows import teacher_rows
from teacher_dump.teachers import own_teacher
from tests.command import command, succeed
from tests.store.building import tree
from tests.tiny import teacher_run, write_student_toml

INTERRUPTED = 130
BOXES = Need(Target.BOXES, Places.BOXES)
NEEDS = [BOXES, Need(Target.BEV_LOW, Places.CELLS), Need(Target.HEATMAP_LOGIT, Places.MAP)]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def one_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit made while the tests run is no difference between two dumps."""
    monkeypatch.setattr("teacher_dump.dump.code_revision", lambda: "tested")


@pytest.fixture
def file_limit() -> Iterator[Callable[[int], None]]:
    """Files may grow to so many bytes; -1: as before."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, before if size < 0 else (size, before[1]))

    yield limit
    limit(-1)


def maps_of(teacher: CenterPointTeacher, frame: Frame) -> CenterMaps:
    with torch.inference_mode():
        maps: CenterMaps = teacher.network([load_points(frame)]).head
    return maps


def literal_box(maps: CenterMaps, label: int, x: float, y: float) -> list[float]:
    """The box that the class's own task gives at the cell of (x, y), in plain arithmetic."""
    col, row = int((x + 38.4) // 4.8), int((y + 38.4) // 4.8)
    task = 0 if label < 5 else 1
    code = maps.box_code[0, task, :, row, col].tolist()
    return [
        (col + code[0]) * 4.8 - 38.4,
        (row + code[1]) * 4.8 - 38.4,
        code[2],
        *(math.exp(value) for value in code[3:6]),
        math.atan2(code[6], code[7]),
        *code[8:],
    ]


def test_boxes_are_what_the_head_says_at_each_true_centre(
    teacher: CenterPointTeacher, frames: list[Frame]
):
    arrays = plan_arrays([BOXES], Coverage.FOREGROUND, teacher.info.shapes)
    rows = list(teacher_rows(teacher, frames, arrays, [CENTER_HEAD]))
    checked = 0
    for frame, row in zip(frames, rows, strict=True):
        maps = maps_of(teacher, frame)
        for k, (values, label) in enumerate(
            zip(frame.boxes.values.tolist(), frame.boxes.labels.tolist(), strict=True)
        ):
            if max(abs(values[0]), abs(values[1])) >= 38.4:
                assert row.arrays["boxes/label"][k] == -1
                continue
            centre, size, yaw, velocity, score, best = (
                row.arrays[f"boxes/{name}"][k].tolist()
                for name in ("centre", "size", "yaw", "velocity", "score", "label")
            )
            expected = literal_box(maps, label, values[0], values[1])
            assert [*centre, *size, yaw, *velocity] == pytest.approx(expected, rel=1e-4, abs=1e-4)
            col, row_ = int((values[0] + 38.4) // 4.8), int((values[1] + 38.4) // 4.8)
            prob = maps.heatmap_logit[0, :, row_, col].sigmoid()
            assert score == pytest.approx(float(prob[label]), abs=1e-5)
            assert best == int(prob.argmax())
            checked += 1
    assert checked > 30


def test_cells_and_maps_are_the_teachers_own(teacher: CenterPointTeacher, frames: list[Frame]):
    arrays = plan_arrays(NEEDS, Coverage.FOREGROUND, teacher.info.shapes)
    (row,) = teacher_rows(teacher, frames[1:2], arrays, [CENTER_HEAD])
    with torch.inference_mode():
        maps = teacher.network([load_points(frames[1])])
    cells = row.arrays["cells/index"].tolist()
    assert cells == foreground_cells(frames[1].boxes, teacher.config.grid).tolist()
    for k, cell in enumerate(cells):
        expected = maps.bev_low[0, :, cell // 16, cell % 16].tolist()
        assert row.arrays["cells/bev_low"][k].tolist() == pytest.approx(expected, abs=1e-5)
    logit = torch.from_numpy(row.arrays["heatmap_logit"])
    assert torch.allclose(logit, maps.head.heatmap_logit[0], atol=1e-5)


def test_ground_truth_off_the_grid_has_no_teacher_box(
    teacher: CenterPointTeacher, frames: list[Frame]
):
    values = frames[0].boxes.values[:3].clone()
    values[:, :2] = torch.tensor([[0.0, 0.0], [38.5, 0.0], [0.0, -1000.0]])
    odd = replace(frames[0], boxes=Boxes3D(values, frames[0].boxes.labels[:3]))
    bare = replace(frames[0], boxes=Boxes3D.empty())
    arrays = plan_arrays(NEEDS, Coverage.FOREGROUND, teacher.info.shapes)
    row, empty = teacher_rows(teacher, [odd, bare], arrays, [CENTER_HEAD])
    labels = row.arrays["boxes/label"].tolist()
    assert labels[0] >= 0
    assert labels[1:] == [-1, -1]
    for name in ("centre", "size", "yaw", "velocity", "score"):
        assert not row.arrays[f"boxes/{name}"][1:].any(), name
    assert row.arrays["boxes/size"][0].all()
    # Five by five cells about the one box on the grid.
    assert len(row.arrays["cells/index"]) == 25
    assert empty.arrays["boxes/centre"].shape == (0, 3)
    assert empty.arrays["cells/bev_low"].shape == (0, 8)


def test_frames_do_not_influence_each_other(teacher: CenterPointTeacher, frames: list[Frame]):
    arrays = plan_arrays(NEEDS, Coverage.FOREGROUND, teacher.info.shapes)
    together = list(teacher_rows(teacher, frames, arrays, [CENTER_HEAD]))
    for frame, row in zip(frames, together, strict=True):
        (alone,) = teacher_rows(teacher, [frame], arrays, [CENTER_HEAD])
        for name, values in row.arrays.items():
            assert alone.arrays[name] == pytest.approx(values, abs=1e-4), name


def test_a_dump_leaves_the_teacher_as_it_is(
    teacher: CenterPointTeacher, frames: list[Frame], checkpoint: Path
):
    as_they_are = [BevAugment.identity()] * len(frames)
    output = teacher(frames, BoxBatch.pad([frame.boxes for frame in frames]), as_they_are)
    assert not teacher.network.training
    assert not output.boxes.requires_grad
    weights = load_checkpoint(checkpoint).weights
    assert any("running_var" in name for name in weights)
    for name, value in teacher.network.state_dict().items():
        assert value.equal(weights[name]), name


def test_two_dumps_are_the_same_bytes(checkpoint: Path, world: Path, tmp_path: Path):
    toml = write_student_toml(tmp_path, world)
    for name in ("one", "two"):
        succeed(
            *("dump-teacher", toml, "--checkpoint", checkpoint, "--coverage", "dense"),
            *("--out", tmp_path / name, "--device", "cpu"),
        )
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_an_interrupted_dump_goes_on_where_it_was(
    checkpoint: Path, long_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """18 frames are two parts; Ctrl-C comes in the second."""
    monkeypatch.setattr("commands.steps.announce_time", lambda *_: None)
    toml = write_student_toml(tmp_path, long_world)
    common = ("dump-teacher", toml, "--checkpoint", checkpoint, "--device", "cpu", "--out")
    succeed(*common, tmp_path / "whole")
    asked: list[str] = []
    answer = CenterPointTeacher.__call__

    def until(stop: int) -> None:
        def call(
            self: CenterPointTeacher,
            frames: Sequence[Frame],
            boxes: BoxBatch,
            augments: Sequence[BevAugment],
        ) -> TeacherOutput:
            if len(asked) >= stop:
                raise KeyboardInterrupt
            asked.extend(frame.token for frame in frames)
            return answer(self, frames, boxes, augments)

        monkeypatch.setattr(CenterPointTeacher, "__call__", call)

    until(16)
    code, text = command(*common, tmp_path / "cut")
    assert code == INTERRUPTED
    assert "interrupted; the committed parts of" in text
    assert "continue with --resume" in text
    assert len(asked) == 16
    until(1000)
    code, text = command(*common, tmp_path / "cut")
    assert (code, "--resume" in text) == (1, True)
    succeed(*common, tmp_path / "cut", "--resume")
    assert len(asked) == len(set(asked)) == 18
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")
    assert len(open_cache(tmp_path / "cut")) == 18


@pytest.mark.parametrize("teacher_fails", [False, True])
def test_a_write_that_fails_beside_the_teacher_is_told(
    checkpoint: Path,
    long_world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file_limit: Callable[[int], None],
    *,
    teacher_fails: bool,
):
    """The first of two parts is refused while the teacher is at the second."""
    run = teacher_run(tmp_path, long_world)
    frames = read_frames(run.data)
    teacher = own_teacher(load_checkpoint(checkpoint), torch.device("cpu"))
    plan = plan_dump(teacher, frames, run.data, NEEDS, DumpOptions())
    writer = StoreWriter.open(tmp_path / "store", plan.fingerprint, rows_of_frames(frames))
    answer = CenterPointTeacher.__call__

    def call(
        self: CenterPointTeacher,
        own: Sequence[Frame],
        boxes: BoxBatch,
        augments: Sequence[BevAugment],
    ) -> TeacherOutput:
        if own[0] is frames[16] and teacher_fails:
            raise TeacherError("out of memory")
        return answer(self, own, boxes, augments)

    monkeypatch.setattr(CenterPointTeacher, "__call__", call)
    file_limit(1000)
    with pytest.raises(StoreWriteError, match="0 of 2 parts are committed and stay") as failure:
        dump(teacher, frames, writer)
    assert isinstance(failure.value.__context__, TeacherError) == teacher_fails
    assert len(writer.pending_parts) == 2
    monkeypatch.setattr(CenterPointTeacher, "__call__", answer)
    file_limit(-1)
    dump(teacher, frames, writer)
    assert len(open_cache(tmp_path / "store")) == 18
