"""A real teacher whose anchors and frame are not the student's."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from examples.kitti_pointpillars import (
    ANCHORS,
    DEMO_ANCHORS,
    NOTHING,
    demo_pointpillars,
    moved,
    nearest_anchors,
    onto_anchors,
    pointpillars,
    velodyne_points,
)
from frames.anchors import AnchorConfig
from frames.augment import BevAugment
from frames.boxes import YAW, BoxBatch
from frames.cell_masks import AnchorMask
from frames.frame import Frame
from frames.geometry import SE3, box_corners, wrap_angle
from frames.grid import BEVGrid
from frames.kitti.config import KittiConfig
from frames.kitti.reader import read_frames
from frames.rotated_iou import pairwise_iou_3d
from nets.anchor_loss import directed
from runs.config import load_config
from store.reader import open_cache
from store.rows import rows_of_frames
from store.schema import Need, Places, Target
from store.writer import StoreWriter
from student_train.config import StudentRun
from student_train.students.stereo import StereoStudentConfig
from teacher_dump.dump import DumpOptions, dump, plan_dump
from teacher_dump.errors import TeacherError
from teacher_dump.protocol import AnchorOutput, Teacher, load_teacher
from tests.command import succeed
from tests.examples.published_runner import WEIGHTS, trained
from tests.examples.tiny_weights import write_weights
from tests.frames.kitti.real_kitti import KITTI
from tests.frames.kitti.tiny_kitti import write_tiny

CPU = torch.device("cpu")
DEMO_STUDENT = Path(__file__).parents[2] / "configs" / "demo_kitti_student.toml"
EXAMPLE = "examples.kitti_pointpillars:pointpillars"
# Two by three cells of 2 m with anchors on the edges: x 0, 3, 6 and y 0, 4.
SMALL = AnchorConfig(grid=BEVGrid(x_min=0, y_min=0, cell_size=2, shape=(2, 3)))
# x -2, -0.2 and so on to 7, y -1 to 6.5.
OTHER = AnchorConfig(grid=BEVGrid(x_min=-2, y_min=-1, cell_size=1.5, shape=(5, 6)))
SENSOR = SE3.from_yaw(0.1, [0.27, -0.02, -0.08])


def words(config: AnchorConfig, frames: int = 1) -> AnchorOutput:
    """Something else at every anchor."""
    generator = torch.Generator().manual_seed(0)
    size = torch.rand(frames, config.count, 3, generator=generator) + 0.5
    rest = torch.randn(frames, config.count, 7, generator=generator)
    return AnchorOutput(
        logit=torch.randn(frames, config.count, 3, generator=generator),
        box=torch.cat([rest[..., :3] * 10, size, rest[..., 6:] * 3], -1),
        direction=(rest[..., 3] > 0).long(),
    )


@pytest.mark.parametrize("pose", [SE3.identity(), SENSOR])
def test_each_anchor_is_told_by_the_nearest_of_its_slot(pose: SE3):
    theirs, ours = OTHER.boxes(), SMALL.boxes()
    index, inside = nearest_anchors(OTHER, SMALL, pose)
    steps = (theirs[6, 0] - theirs[0, 0], theirs[36, 1] - theirs[0, 1])
    for n, place in enumerate(pose.inverse().apply(ours[:, :3].double().numpy())):
        own_slot = torch.arange(len(theirs)) % 6 == n % 6
        gap = (theirs[:, :2].double() - torch.from_numpy(place[:2])).norm(dim=1)
        nearest = torch.where(own_slot, gap, math.inf).argmin()
        far = [
            not low - step / 2 <= at <= high + step / 2
            for at, low, high, step in zip(
                place[:2], theirs[0, :2], theirs[-1, :2], steps, strict=True
            )
        ]
        assert bool(inside[n]) is not any(far)
        assert index[n] == nearest
        assert torch.equal(theirs[index[n], 3:], ours[n, 3:])


def test_anchors_beyond_the_range_hear_that_nothing_is_there():
    shifted = SE3.from_yaw(0.0, [4.0, 0.0, 0.0])
    said, table = words(SMALL), SMALL.boxes()
    told = onto_anchors(said, SMALL, SMALL, [shifted])
    # Anchors at x = 0, 3, 6 lie at -4, -1, 2 of the sensor's frame; its own begin at -1.5.
    beyond = table[:, 0] == 0
    assert torch.equal(told.box[0, beyond], table[beyond])
    assert (told.logit[0, beyond] == NOTHING).all()
    assert (told.logit[0, ~beyond] != NOTHING).all()
    # 0 lies in the half turn that ends at 0.785, the second; 1.57 in the one that begins there.
    assert told.direction[0, beyond].tolist() == [1, 0] * 6


def test_the_same_anchors_in_the_same_frame_are_told_the_same():
    said = words(SMALL, frames=2)
    told = onto_anchors(said, SMALL, SMALL, [SE3.identity()] * 2)
    assert torch.equal(told.logit, said.logit)
    torch.testing.assert_close(told.box, said.box)
    assert torch.equal(told.direction, said.direction)


def test_boxes_and_headings_move_with_the_sensor():
    said = words(SMALL)
    told = onto_anchors(said, SMALL, SMALL, [SENSOR])
    index, inside = nearest_anchors(SMALL, SMALL, SENSOR)
    assert inside.all()
    torch.testing.assert_close(told.box[0], moved(said.box[0, index], SENSOR))
    theirs = directed(said.box[0, index, YAW], said.direction[0, index])
    ours = directed(told.box[0, :, YAW], told.direction[0])
    turn = wrap_angle(ours - theirs)
    torch.testing.assert_close(turn, torch.full_like(turn, 0.1), atol=1e-5, rtol=0)
    # Some cross the edge of a half turn, so that their direction changes.
    assert not torch.equal(told.direction[0], said.direction[0, index])


@given(st.floats(-math.pi, math.pi), st.floats(-60, 60), st.floats(-3.1, 3.1))
def test_a_moved_box_has_the_moved_corners(turn: float, x: float, yaw: float):
    pose = SE3.from_yaw(turn, [0.27, x / 9, -0.08])
    box = torch.tensor([[x, 5.0, -1.0, 4.0, 1.6, 1.5, yaw, 0.0, 0.0]], dtype=torch.float64)
    expected = torch.from_numpy(pose.apply(box_corners(box)[0].numpy()))
    torch.testing.assert_close(box_corners(moved(box, pose))[0], expected)


def test_weights_must_be_given(tmp_path: Path):
    with pytest.raises(TeacherError, match=r"none were given; expected --checkpoint FOLDER"):
        load_teacher(EXAMPLE, None, CPU)
    with pytest.raises(TeacherError, match=r"cannot read .*pfn_fitted\.npz .*FileNotFoundError"):
        load_teacher(EXAMPLE, tmp_path, CPU)


def test_the_points_of_a_frame_are_those_of_its_file(tmp_path: Path):
    config = KittiConfig(root=write_tiny(tmp_path / "tree"), split="train", in_view=False)
    (frame,) = read_frames(config)
    expected = torch.tensor([[9.7, 1, 0.5, 0.25], [4.7, 9, 0, 0.5], [-5, 0, 0, 1]])
    torch.testing.assert_close(velodyne_points(frame, BevAugment.identity()), expected)
    flipped = velodyne_points(frame, BevAugment.compose(flip_y=True))
    torch.testing.assert_close(flipped, expected * torch.tensor([1, -1, 1, 1]))


def run(teacher: Teacher, frames: Sequence[Frame]) -> AnchorOutput:
    truth = BoxBatch.pad([frame.boxes for frame in frames])
    with torch.inference_mode():
        output = teacher(frames, truth, [BevAugment.identity()] * len(frames))
    assert output.anchors is not None
    return output.anchors


def check_round_trip(teacher: Teacher, config: KittiConfig, store: Path) -> None:
    """Boxes, directions and logits come out of a cache as the teacher said them."""
    frames = read_frames(config)
    mask = AnchorMask(anchors=ANCHORS)
    needs = [
        Need(Target.BOXES, Places.BOXES),
        Need(Target.ANCHORS, Places.ANCHORS, mask=mask),
        Need(Target.ANCHOR_LOGIT, Places.CELLS, "float32", mask=mask),
    ]
    plan = plan_dump(teacher, frames, config, needs, DumpOptions())
    dump(teacher, frames, StoreWriter.open(store, plan.fingerprint, rows_of_frames(frames)))
    cache, said = open_cache(store), run(teacher, frames)
    for b, frame in enumerate(frames):
        row = {name: torch.from_numpy(values) for name, values in cache[frame.token].arrays.items()}
        index = row["anchors/index"].long()
        torch.testing.assert_close(row["anchors/box"], said.box[b, index])
        assert torch.equal(row["anchors/direction"].long(), said.direction[b, index])
        logit = said.logit[b].view(ANCHORS.grid.num_cells, -1)
        cells = row[Places.CELLS.index_array].long()
        torch.testing.assert_close(row["cells/anchor_logit"], logit[cells])
        assert set((index // ANCHORS.per_cell).tolist()) == set(cells.tolist())
        own = frame.boxes.labels[row["anchors/object"].long()]
        score = said.logit[b, index].sigmoid()[torch.arange(len(index)), own]
        torch.testing.assert_close(row["anchors/score"], score)


@pytest.fixture(autouse=True)
def one_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("teacher_dump.dump.code_revision", lambda: "tested")


def test_a_dump_keeps_what_it_says(tmp_path: Path):
    teacher = load_teacher(EXAMPLE, write_weights(tmp_path / "weights"), CPU)
    config = KittiConfig(root=write_tiny(tmp_path / "tree"), split="trainval")
    check_round_trip(teacher, config, tmp_path / "store")


def test_it_speaks_of_the_students_anchors(tmp_path: Path):
    run = load_config(DEMO_STUDENT, StudentRun)
    assert run.student.anchors == DEMO_ANCHORS
    assert StereoStudentConfig().anchors == ANCHORS
    weights = write_weights(tmp_path / "weights")
    for factory, anchors in ((pointpillars, ANCHORS), (demo_pointpillars, DEMO_ANCHORS)):
        assert factory(weights, CPU).info.anchors == anchors


@pytest.mark.slow
@trained
def test_it_teaches_a_stereo_student_on_a_real_pair(tmp_path: Path):
    """One frame, two steps: through the commands, with XGD and CLD."""
    toml = tmp_path / "student.toml"
    text = DEMO_STUDENT.read_text()
    for old, new in (
        ('"demo_kitti_out/world"', f'"{KITTI}"'),
        ('"world_train"', '"000107"'),
        ("steps = 300", "steps = 2"),
        ("batch_size = 4", "batch_size = 1"),
    ):
        assert old in text
        text = text.replace(old, new)
    toml.write_text(text)
    store, where = tmp_path / "store", ("--device", "cpu")
    named = ("--teacher", f"{EXAMPLE.split(':')[0]}:demo_pointpillars", "--checkpoint", WEIGHTS)
    succeed("dump-teacher", toml, *named, "--methods", "stereodistill", "--out", store, *where)
    out = tmp_path / "student"
    method = ("--method", "stereodistill", "--store", store)
    succeed("train-student", toml, *method, "--out", out, *where)
    # Both terms have something to say of the seven cars.
    first, *_ = csv.DictReader((out / "metrics.csv").read_text().splitlines())
    assert float(first["loss/xgd/box"]) > 0
    assert float(first["loss/cld/logit"]) > 0


@trained
def test_the_trained_teacher_finds_the_cars_and_is_dumped(tmp_path: Path):
    """All but the hardest of the real cars, with the overlap that KITTI asks for."""
    teacher = pointpillars(WEIGHTS, CPU)
    config = KittiConfig(root=KITTI, split="training", cameras=())
    frames = read_frames(config)
    found = teacher.detect(frames)
    overlaps = []
    for detections, frame in zip(found, frames, strict=True):
        cars = frame.boxes.values[frame.boxes.labels == 0]
        sure = detections.boxes[(detections.labels == 0) & (detections.scores > 0.3)]
        overlaps += pairwise_iou_3d(cars, sure).amax(1).tolist()
    assert sum(overlap > 0.7 for overlap in overlaps) >= 0.6 * len(overlaps)
    check_round_trip(teacher, config, tmp_path / "store")
