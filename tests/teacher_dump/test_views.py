"""Stored views: what the teacher says on each augmentation, whoever writes it and in what order."""

from pathlib import Path

import numpy as np
import pytest
import torch

from frames.augment import BevAugment
from frames.cell_masks import foreground_cells
from frames.dataset import read_frames
from frames.frame import Frame
from frames.heatmap import CENTER_HEAD
from frames.loading import load_points
from store.choices import Coverage
from store.fingerprint import DrawnViews
from store.reader import Cache, open_cache
from store.schema import Need, Places, Target
from store.writer import StoreWriter
from teacher_dump.centerpoint_teacher import CenterPointTeacher
from teacher_dump.defaults import OWN_TEACHER
from teacher_dump.dump import DumpOptions, dump, frames_of_rows, plan_dump
from teacher_dump.part_task import DumpJob, forget_teacher, write_part
from tests.command import command, succeed
from tests.store.building import tree
from tests.tiny import student_run, teacher_run, write_student_toml

NEEDS = [
    Need(Target.BOXES, Places.BOXES),
    Need(Target.BEV_LOW, Places.CELLS),
    Need(Target.HEATMAP_LOGIT, Places.MAP),
]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="session")
def cache(checkpoint: Path, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """Three frames, three views each, whole maps; a batch is one row."""
    folder = tmp_path_factory.mktemp("views")
    succeed(
        *("dump-teacher", write_student_toml(folder, world), "--checkpoint", checkpoint),
        *("--views", 3, "--coverage", "dense", "--batch-size", 1, "--device", "cpu"),
        *("--methods", "xgd,imitation,unidistill", "--out", folder / "store"),
    )
    return open_cache(folder / "store")


def test_a_view_is_the_teacher_on_that_very_augmentation(
    cache: Cache, teacher: CenterPointTeacher, frames: list[Frame]
):
    """The network run by hand on augmented points; all of it equal to the bit."""
    matrices = set()
    for frame in frames:
        for view in range(3):
            row = cache.row(frame.token, view)
            augment = BevAugment(row.augment.matrix)
            with torch.inference_mode():
                maps = teacher.network([augment.points(load_points(frame))])
            stored = row.arrays["bev_high"]
            np.testing.assert_array_equal(stored, maps.bev_high[0].half().numpy())
            logit = maps.head.heatmap_logit[0].half().numpy()
            np.testing.assert_array_equal(row.arrays["heatmap_logit"], logit)
            assert row.gt.values.equal(augment.boxes(frame.boxes.values))
            cells = foreground_cells(row.gt, cache.fingerprint.grid, [CENTER_HEAD], frame.token)
            assert row.arrays["cells/index"].tolist() == cells.tolist()
            matrices.add(str(row.augment.matrix))
    assert len(matrices) == 9


def test_boxes_of_a_view_are_in_its_frame(cache: Cache, frames: list[Frame]):
    for view in range(3):
        row = cache.row(frames[0].token, view)
        on_grid = row.arrays["boxes/label"] >= 0
        offset = row.arrays["boxes/centre"][on_grid, :2] - row.gt.values[on_grid, :2].numpy()
        # Read at the true centre's cell, 4.8 m wide, by an untrained head.
        assert on_grid.sum() > 5
        assert np.abs(offset).max() < 3 * 4.8


def test_the_plan_counts_the_cells_and_boxes_of_augmented_frames(
    cache: Cache, teacher: CenterPointTeacher, frames: list[Frame], world: Path, tmp_path: Path
):
    run = student_run(tmp_path, world)
    views = DrawnViews(views=3, ranges=run.bev_augment, seed=run.fit.seed)
    plan = plan_dump(teacher, frames, run.data, NEEDS, DumpOptions(augmentation=views))
    rows = [cache.row(frame.token, view) for frame in frames for view in range(3)]
    cells = sum(len(row.arrays["cells/index"]) for row in rows)
    grid = run.student.grid
    canonical = 3 * sum(
        len(foreground_cells(f.boxes, grid, [CENTER_HEAD], f.token)) for f in frames
    )
    assert cells != canonical
    total = {size.array: size.total for size in plan.sizes}
    assert total["cells/bev_low"] == cells * 8 * 2
    assert total["boxes/yaw"] == sum(len(row.gt) for row in rows) * 4
    assert total["heatmap_logit"] == 9 * 10 * 16 * 16 * 2


def test_workers_in_any_order_and_a_resumed_dump_write_the_same(
    teacher: CenterPointTeacher, checkpoint: Path, long_world: Path, tmp_path: Path
):
    """18 frames of two views: three parts, whose bounds no batch crosses."""
    run = student_run(tmp_path, long_world)
    data = teacher_run(tmp_path, long_world).data
    long = read_frames(data)
    views = DrawnViews(views=2, ranges=run.bev_augment, seed=1)
    options = DumpOptions(coverage=Coverage.DENSE, augmentation=views)
    plan = plan_dump(teacher, long, data, NEEDS, options)
    alone = StoreWriter.open(tmp_path / "alone", plan.fingerprint, plan.rows)
    torch.set_num_threads(1)
    dump(teacher, long, alone)
    writer = StoreWriter.open(tmp_path / "store", plan.fingerprint, plan.rows)
    forget_teacher()
    job = DumpJob(
        store=writer.path,
        plan_hash=writer.plan_hash,
        factory=OWN_TEACHER,
        checkpoint=checkpoint,
        device="cpu",
        batch_size=4,
    )
    middle = writer.parts[1]
    write_part(job, middle, frames_of_rows(long, middle, 2))
    again = plan_dump(teacher, long, data, NEEDS, options)
    writer = StoreWriter.open(tmp_path / "store", again.fingerprint, again.rows, resume=True)
    assert writer.pending_parts == [range(16), range(32, 36)]
    for part in reversed(writer.pending_parts):
        write_part(job, part, frames_of_rows(long, part, 2))
    writer.finalise()
    assert tree(tmp_path / "store") == tree(tmp_path / "alone")


def test_a_dry_run_says_rows_room_and_time(checkpoint: Path, world: Path, tmp_path: Path):
    toml = write_student_toml(tmp_path, world)
    common = ("dump-teacher", toml, "--checkpoint", checkpoint, "--device", "cpu", "--dry-run")
    text = succeed(*common, "--out", tmp_path / "a" / "store", "--views", 3, "--batch-size", 2)
    assert "9 rows (3 frames of world_train x 3 views): about" in text
    assert f"are free on the disk of {tmp_path / 'a' / 'store'}" in text
    assert "for 9 rows, without writing, in one process: the teacher took" in text
    assert "measured by running it on 4 of these rows" in text
    assert not (tmp_path / "a").exists()
    text = succeed(*common, "--out", tmp_path / "store", "--workers", 2)
    assert "without writing, in one process" in text


def test_views_of_an_augmentation_that_is_off_are_refused(
    checkpoint: Path, world: Path, tmp_path: Path
):
    toml = write_student_toml(tmp_path, world)
    text = toml.read_text()
    start, stop = text.index("[bev_augment]"), text.index("[student]")
    toml.write_text(text[:start] + text[stop:])
    arguments = ("--checkpoint", checkpoint, "--out", tmp_path / "store", "--views", 2)
    code, text = command("dump-teacher", toml, *arguments, "--device", "cpu")
    assert (code, "error: --views 2: the run's bev_augment is off" in text) == (1, True)


def test_the_views_are_the_fingerprints_draws(cache: Cache, frames: list[Frame]):
    augmentation = cache.fingerprint.augmentation
    assert augmentation != "canonical"
    token = frames[0].token
    assert cache.row(token, 1).augment.matrix.equal(augmentation.draw(token, 1).matrix)
    other = augmentation.model_copy(update={"seed": 99})
    assert not cache.row(token, 1).augment.matrix.equal(other.draw(token, 1).matrix)
