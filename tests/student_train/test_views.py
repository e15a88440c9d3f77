"""A student of stored views replays them: the matrix of a row, its targets as they are."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from frames.augment import BevAugment
from frames.box_code import decode_boxes
from frames.boxes import BoxBatch, Boxes3D
from frames.cell_masks import foreground_cells
from frames.dataset import read_frames
from frames.errors import DataError
from frames.frame import Frame
from frames.heatmap import CENTER_HEAD, center_heatmap
from frames.loading import load_points
from nets.center_head import codes_at
from runs.checkpoint import load_checkpoint
from store.reader import Cache, open_cache
from store.schema import Need, Places, Target
from student_train.config import StudentRun
from student_train.data import StudentDataset, StudentExample
from teacher_dump.centerpoint_teacher import CenterPointTeacher
from teacher_dump.teachers import own_teacher
from tests.command import command, succeed
from tests.student_train.seen import seen
from tests.teacher_dump.untrained import write_untrained_teacher
from tests.tiny import write_student_toml

NEEDS = [Need(Target.BOXES, Places.BOXES), Need(Target.BEV_HIGH, Places.CELLS)]
VIEWS = 3
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="session")
def folder(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher and its store of three views a frame; a batch is one row."""
    folder = tmp_path_factory.mktemp("view_cache")
    succeed(
        *("dump-teacher", write_student_toml(folder, world), "--out", folder / "store"),
        *("--checkpoint", write_untrained_teacher(folder, world), "--device", "cpu"),
        *("--methods", "xgd,imitation,unidistill", "--views", VIEWS, "--batch-size", 1),
    )
    return folder


@pytest.fixture
def views(folder: Path) -> Cache:
    return open_cache(folder / "store")


def augment_of(example: StudentExample) -> BevAugment:
    matrix = seen(example).geometry.augmented_from_ego[0]
    return BevAugment(torch.cat([matrix[:2, :2], matrix[:2, 3:]], dim=1))


def test_an_example_is_a_direct_run_of_the_teacher_on_its_augmentation(
    run: StudentRun, frames: list[Frame], views: Cache, folder: Path
):
    """Cameras, boxes and targets against the teacher's network in the loop, to the bit."""
    teacher = own_teacher(load_checkpoint(folder / "teacher.pt"), torch.device("cpu"))
    assert isinstance(teacher, CenterPointTeacher)
    swept = read_frames(run.data)
    grid = run.student.grid
    data = StudentDataset(frames, run, views, NEEDS)
    for position in range(6):
        index = position % 3
        example = data[index, position]
        augment = augment_of(example)
        truth = augment.boxes(frames[index].boxes.values)
        assert example.boxes.values.equal(truth)
        with torch.inference_mode():
            maps = teacher.network([augment.points(load_points(swept[index]))])
        boxes = BoxBatch.pad([Boxes3D(truth, frames[index].boxes.labels)])
        cells = foreground_cells(example.boxes, grid, [CENTER_HEAD], frames[index].token)
        targets = example.targets
        assert targets.cells is not None
        assert targets.cells.equal(grid.cell_centres(cells))
        weight = center_heatmap(boxes, grid, 10).amax(1).flatten()[cells]
        assert targets.cell_weight[CENTER_HEAD].equal(weight)
        high = maps.bev_high[0].flatten(1)[:, cells].T
        assert targets.at_cells[Target.BEV_HIGH].equal(high.half())
        cell = grid.cell_index(boxes.values[..., :2])
        own = decode_boxes(codes_at(maps.head, boxes.labels, cell), cell, grid)[0]
        assert targets.answered is not None
        assert targets.boxes is not None
        assert targets.boxes[targets.answered].equal(own[targets.answered])
        assert 5 < targets.answered.sum() <= len(truth)


def test_all_views_are_replayed_and_no_other_augmentation(
    run: StudentRun, frames: list[Frame], views: Cache
):
    data = StudentDataset(frames[:1], run, views, NEEDS)
    stored = {str(views.row(frames[0].token, v).augment.matrix) for v in range(VIEWS)}
    seen = [str(augment_of(data[0, position]).matrix) for position in range(24)]
    assert set(seen) == stored
    assert seen[:6] == [str(augment_of(data[0, position]).matrix) for position in range(6)]
    # A run that is not augmented by itself is augmented by the store's views all the same.
    off = run.model_copy(update={"bev_augment": type(run.bev_augment)()})
    data = StudentDataset(frames[:1], off, views, NEEDS)
    assert {str(augment_of(data[0, position]).matrix) for position in range(24)} == stored


def test_other_ground_truth_is_refused_in_the_views_frame(
    run: StudentRun, frames: list[Frame], views: Cache
):
    moved = Boxes3D(frames[0].boxes.values + 0.01, frames[0].boxes.labels)
    data = StudentDataset([replace(frames[0], boxes=moved)], run, views, NEEDS)
    with pytest.raises(DataError, match="the cache was dumped with"):
        data[0, 0]


def test_a_student_trains_on_views_of_its_own_ranges_only(
    folder: Path, world: Path, tmp_path: Path
):
    toml = write_student_toml(tmp_path, world)
    arguments = ("--method", "xgd+imitation", "--store", folder / "store", "--device", "cpu")
    succeed("train-student", toml, *arguments, "--out", tmp_path / "student")
    toml.write_text(toml.read_text().replace("rotation = 0.3", "rotation = 0.2"))
    code, text = command("train-student", toml, *arguments, "--out", tmp_path / "other")
    assert code == 1
    assert "augmentation.ranges.rotation: found 0.3, expected 0.2" in text
    assert not (tmp_path / "other").exists()
