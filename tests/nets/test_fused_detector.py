"""BEVFusion and its simulation: their parts, what each sees, parameters at the paper's size."""

from pathlib import Path

import pytest
import torch
from torch import nn

from frames.augment import BevAugment
from frames.boxes import BoxBatch, Boxes3D
from frames.camera_input import CameraInput
from frames.dataset import read_frames
from frames.sensor_input import SensorInput
from nets.bev_lift import BEVLift
from nets.bevfusion import BEVFusion, BEVFusionConfig
from nets.fused_detector import FusedDetector
from nets.residual_decoder import ResidualDecoder, ResidualDecoderConfig
from nets.simulated_fusion import SimulatedFusion, SimulatedFusionConfig
from runs.config import load_config
from runs.errors import ConfigError
from student_train.config import StudentRun
from student_train.students.bev import SimulatedStudentConfig
from teacher_dump.config import TeacherRun
from tests.tiny_simdistill import student_run, teacher_run

CONFIGS = Path(__file__).parents[2] / "configs"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def count(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def teacher_of(run: TeacherRun) -> BEVFusion:
    assert isinstance(run.teacher, BEVFusionConfig)
    torch.manual_seed(0)
    return BEVFusion(run.teacher)


def student_config(run: StudentRun, **changes: object) -> SimulatedFusionConfig:
    assert isinstance(run.student, SimulatedStudentConfig)
    given = run.student.model_dump() | changes
    return SimulatedStudentConfig.model_validate(given)


@pytest.fixture
def seen(world: Path, tmp_path: Path) -> SensorInput:
    """Two frames as the teacher sees them."""
    run = teacher_run(tmp_path, world)
    frames = read_frames(run.data)[:2]
    each = [run.reader.read(frame, BevAugment.identity(), None) for frame in frames]
    return SensorInput.stack(each)


def test_the_teacher_sees_both(world: Path, tmp_path: Path, seen: SensorInput):
    teacher = teacher_of(teacher_run(tmp_path, world)).eval()
    assert seen.points is not None
    assert seen.cameras is not None
    dark = CameraInput(torch.zeros_like(seen.cameras.images), seen.cameras.geometry)
    full = teacher(seen)
    blind = teacher(SensorInput(seen.points, dark))
    deaf = teacher(SensorInput(tuple(cloud[:1] for cloud in seen.points), seen.cameras))
    assert full.bev_lidar.equal(blind.bev_lidar)
    assert full.bev_camera.equal(deaf.bev_camera)
    assert not full.bev_low.equal(blind.bev_low)
    assert not full.bev_low.equal(deaf.bev_low)
    assert full.bev_low.shape == (2, 10, 16, 16)
    assert full.bev_high.shape == (2, 8, 16, 16)


def test_the_student_needs_no_points(world: Path, tmp_path: Path, seen: SensorInput):
    """Whatever stands in their place is not looked at."""
    torch.manual_seed(0)
    student = SimulatedFusion(student_config(student_run(tmp_path, world))).eval()
    with_points, without = student(seen), student(SensorInput(None, seen.cameras))
    assert with_points.head.heatmap_logit.equal(without.head.heatmap_logit)
    assert with_points.bev_lidar.equal(without.bev_lidar)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"shared_lift": True},
        {"compensated": "lidar"},
        {"in_image": None, "in_bev": None},
        {"in_bev": {"heads": 2, "points": 3, "corner_reference": True}},
    ],
)
def test_every_part_of_the_student_learns(
    world: Path, tmp_path: Path, seen: SensorInput, changes: dict[str, object]
):
    student = SimulatedFusion(student_config(student_run(tmp_path, world), **changes))
    assert seen.cameras is not None
    maps = student(seen)
    shared = bool(changes.get("shared_lift"))
    assert maps.depth_logit.shape[1] == (1 if shared else 2) * seen.cameras.images.shape[1]
    assert maps.bev_lidar.equal(maps.bev_camera) == (shared and not student.config.in_bev)
    boxes = Boxes3D(torch.zeros(1, 9) + 1, torch.tensor([0]))
    terms = student.detection_terms(maps.head, BoxBatch.pad([boxes, boxes]))
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    # But the stages of the image backbone that the neck does not take.
    learning = {n: p for n, p in student.named_parameters() if not n.startswith("image.body")}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learning.values())
    assert len(student.detections(maps.head)) == 2


def test_depth_is_taught_to_every_lift(world: Path, tmp_path: Path, seen: SensorInput):
    config = student_config(student_run(tmp_path, world), depth_loss_weight=2.0)
    student = SimulatedFusion(config)
    assert seen.cameras is not None
    maps = student(seen)
    assert student.depth_terms(maps.depth_logit, seen) == {}
    depth = torch.full((2, seen.cameras.images.shape[1], 4, 11), 9.0)
    taught = SensorInput(None, CameraInput(seen.cameras.images, seen.cameras.geometry, depth))
    both = student.depth_terms(maps.depth_logit, taught)["depth"]
    halves = [student.depth_terms(half, taught)["depth"] for half in maps.depth_logit.chunk(2, 1)]
    assert both.item() == pytest.approx((halves[0] + halves[1]).item() / 2, rel=1e-5)


def test_the_decoder_keeps_the_size():
    decoder = ResidualDecoder(
        ResidualDecoderConfig(
            in_channels=4, widths=(5, 6, 7), blocks=(1, 2, 1), strides=(2, 2, 1), out_channels=3
        )
    )
    assert decoder(torch.randn(2, 4, 12, 8)).shape == (2, 3, 12, 8)
    assert [
        stage(torch.randn(1, w, 8, 8)).shape[-1]
        for stage, w in zip(decoder.stages, (4, 5, 6), strict=True)
    ] == [4, 4, 8]
    with pytest.raises(ValueError, match=r"\(10, 8\) is no multiple of the decoder's stride"):
        decoder(torch.randn(1, 4, 10, 8))
    with pytest.raises(ValueError, match="one entry a stage expected"):
        ResidualDecoderConfig(blocks=(1,))


def test_images_of_another_size_are_refused_early(world: Path, tmp_path: Path):
    run = student_run(tmp_path, world)
    student = student_config(run, image_size=(32, 96))
    other = run.model_copy(update={"student": student})
    with pytest.raises(ConfigError, match=r"out_size is \(32, 88\), student.image_size \(32, 96\)"):
        _ = other.reader
    with pytest.raises(ValueError, match=r"image_size \(30, 88\) is no multiple of the image"):
        student_config(run, image_size=(30, 88))
    with pytest.raises(ValueError, match="shared_lift"):
        student_config(run, shared_lift=True, compensated="lidar")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"in_image": {"heads": 3}}, "8 channels cannot be split over 3 heads"),
        ({"in_bev": {"heads": 5}}, "8 channels cannot be split over 5 heads"),
        ({"decoder": {"strides": (3, 1)}}, r"grid.shape \(16, 16\) is no multiple of the decoder"),
    ],
)
def test_parts_that_cannot_be_built_are_refused_with_the_config(
    world: Path, tmp_path: Path, table: dict[str, dict[str, object]], message: str
):
    run = student_run(tmp_path, world)
    given = run.student.model_dump()
    changes = {name: given[name] | values for name, values in table.items()}
    with pytest.raises(ValueError, match=message):
        student_config(run, **changes)


def test_parameters_at_the_papers_size():
    """As specified: fusers 774 656 and 369 152, compensation 193 264 and 51 840 and positions."""
    teacher = load_config(CONFIGS / "simdistill_teacher.toml", TeacherRun)
    run = load_config(CONFIGS / "simdistill_student.toml", StudentRun)
    assert isinstance(teacher.teacher, BEVFusionConfig)
    with torch.device("meta"):
        student = SimulatedFusion(student_config(run))
        # All but its LiDAR branch, for which spconv would be loaded.
        taught = FusedDetector(teacher.teacher, sum(teacher.teacher.branch_channels))
        lift = BEVLift(teacher.teacher.lift, teacher.teacher.grid)
    assert count(taught.fuser) == 774_656
    assert count(student.fuser) == 369_152
    assert count(student.compensation) == 51_840 + 360 * 40
    assert count(student.lidar_view.compensation) == 193_264 + 120 * 128
    assert student.camera_view is not None
    assert count(student.camera_view.compensation) == 193_264 + 120 * 128
    assert count(student.decoder) == count(taught.decoder)
    assert lift.depth.conv.out_channels == 118 + 80
    assert count(lift.down) == 3 * (80 * 80 * 9 + 160)


@pytest.mark.parametrize("scale", ["simdistill", "gain_sim"])
def test_teacher_and_student_share_what_they_should(scale: str):
    teacher = load_config(CONFIGS / f"{scale}_teacher.toml", TeacherRun)
    student = load_config(CONFIGS / f"{scale}_student.toml", StudentRun)
    parts = {"grid", "image", "lift", "decoder", "head", "loss", "decode"}
    own, other = (c.model_dump(include=parts) for c in (student.student, teacher.teacher))
    assert own == other
    assert (teacher.kind, student.kind) == ("fusion", "camera")
    assert student.image_augment is not None
    assert student.reader is not None
