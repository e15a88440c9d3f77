"""The TOMLs of UniDistill have the release's sizes, and teachers fit students."""

from pathlib import Path

import pytest
import torch
from torch import nn

from frames.sensor_input import Modality
from nets.bev_detector import BEVDetector
from nets.lidar_encoder import VoxelEncoding
from runs.config import load_config
from store.schema import Target
from student_train.config import StudentRun
from student_train.students.bev import BEVStudentConfig
from teacher_dump.config import TeacherRun

CONFIGS = Path(__file__).parents[1] / "configs"
SCALES = ("gain_uni", "unidistill")
TEACHERS: tuple[Modality, ...] = ("lidar", "camera", "fusion")
STUDENTS: tuple[Modality, ...] = ("lidar", "camera")


def teacher_of(scale: str, kind: Modality) -> TeacherRun:
    return load_config(CONFIGS / f"{scale}_{kind}_teacher.toml", TeacherRun)


def student_of(scale: str, kind: Modality) -> StudentRun:
    return load_config(CONFIGS / f"{scale}_{kind}_student.toml", StudentRun)


@pytest.mark.parametrize("scale", SCALES)
def test_teachers_and_students_share_all_but_their_encoders(scale: str):
    runs = [teacher_of(scale, kind) for kind in TEACHERS]
    assert [run.kind for run in runs] == list(TEACHERS)
    students = [student_of(scale, kind) for kind in STUDENTS]
    assert [run.kind for run in students] == list(STUDENTS)
    networks = [*(run.teacher for run in runs), *(run.student for run in students)]
    shared = [
        network.model_dump(include={"grid", "backbone", "head", "loss", "decode"})
        for network in networks
    ]
    assert all(parts == shared[0] for parts in shared)
    of_kind = {run.kind: run.teacher.model_dump() for run in runs}
    for run in students:
        assert run.student.model_dump() == of_kind[run.kind]
    for sensor in STUDENTS:
        assert of_kind["fusion"][sensor] == of_kind[sensor][sensor]


def test_the_papers_sizes():
    run = teacher_of("unidistill", "fusion")
    student = student_of("unidistill", "lidar").student
    assert isinstance(student, BEVStudentConfig)
    assert dict(student.channels) == {Target.BEV_LOW: 256, Target.BEV_HIGH: 512}
    assert student.grid.shape == (180, 180)
    assert (student.grid.x_min, student.grid.cell_size) == (-54.0, 0.6)
    assert isinstance(student.lidar, VoxelEncoding)
    assert student.lidar.spatial_shape == (41, 1440, 1440)
    # -5 .. 3 m about a LiDAR 1.84 m above the ego frame, in whole voxels.
    assert (student.lidar.voxels.range_min[2], student.lidar.voxels.range_max[2]) == (-3.2, 4.8)
    camera = student_of("unidistill", "camera").student
    assert isinstance(camera, BEVStudentConfig)
    assert camera.camera is not None
    assert camera.camera.z_range == (-3.2, 4.8)
    assert run.data.sweeps == 11
    assert run.image_augment is not None
    assert run.image_augment.out_size == (256, 704)


def test_a_paper_size_network_counts_as_specified():
    """Shared by all kinds: 4 576 768 of the BEV encoder, 1 895 308 of the head."""
    config = student_of("unidistill", "camera").student
    assert isinstance(config, BEVStudentConfig)
    with torch.device("meta"):
        network = BEVDetector(config)

    def count(*modules: nn.Module) -> int:
        return sum(p.numel() for module in modules for p in module.parameters())

    assert count(network.backbone, network.neck) == 4_576_768
    assert count(network.head) == 1_895_308
    assert count(network.loss) == 3
    assert network.camera is not None
    assert count(network.camera.depth) == 513 * 368
