"""UniDistill's detector, small enough for a test: teachers and students of every kind."""

from pathlib import Path

from frames.sensor_input import Modality
from runs.config import load_config
from student_train.config import StudentRun
from teacher_dump.config import TeacherRun
from tests.tiny import GRID, TASKS, data_table, fit_table

IMAGE_AUGMENT = """[image_augment]
out_size = [32, 88]
resize = [0.66, 0.75]
flip = 0.5
"""
BEV_AUGMENT = """flip_x = 0.5
flip_y = 0.5
rotation = 0.3
scale = [0.95, 1.05]
shift = 0.5
"""
LIDAR = """[{role}.lidar]
kind = "pillar"
channels = 8
stride = 2
[{role}.lidar.voxels]
range_min = [-38.4, -38.4, -3.0]
range_max = [38.4, 38.4, 5.0]
voxel_size = [2.4, 2.4, 8.0]
"""
CAMERA = """[{role}.camera.image]
name = "resnet18"
args = {{ layers = [1, 1, 1, 1], channels = [8, 8, 8, 8] }}
level_strides = [8]
stride = 8
up_channels = 8
[{role}.camera.depth]
in_channels = 8
stride = 8
context_channels = 8
bins = {{ start = 1.0, stop = 41.0, step = 4.0 }}
"""


def network_tables(role: str, kind: Modality, depth: float = 0.0) -> str:
    """The tables of ``[teacher]`` or ``[student]``."""
    lidar, camera = LIDAR.format(role=role), CAMERA.format(role=role)
    encoders = {"lidar": lidar, "camera": camera, "fusion": lidar + camera}[kind]
    return f"""[{role}]
network = "unidistill"
depth_loss_weight = {depth}
[{role}.grid]
{GRID}
{encoders}
[{role}.backbone]
in_channels = 8
channels = [8]
layers = [1]
strides = [1]
up_channels = [8]
[{role}.head]
in_channels = 8
shared_channels = 8
head_channels = 8
{TASKS}
[{role}.decode]
score_threshold = 0.01
"""


def write_teacher_toml(
    folder: Path, root: Path, kind: Modality, steps: int = 2, depth: float = 0.0
) -> Path:
    path = folder / f"{kind}_teacher.toml"
    path.write_text(
        f"""name = "tiny-{kind}"
{data_table(root)}
[augment]
{BEV_AUGMENT}
{"" if kind == "lidar" else IMAGE_AUGMENT}
{network_tables("teacher", kind, depth)}
{fit_table(steps)}"""
    )
    return path


def teacher_run(folder: Path, root: Path, kind: Modality, depth: float = 0.0) -> TeacherRun:
    return load_config(write_teacher_toml(folder, root, kind, depth=depth), TeacherRun)


def write_student_toml(
    folder: Path, root: Path, kind: Modality, steps: int = 2, depth: float = 0.0
) -> Path:
    path = folder / f"{kind}_student.toml"
    path.write_text(
        f"""name = "tiny-{kind}-student"
{data_table(root)}
[bev_augment]
{BEV_AUGMENT}
{"" if kind == "lidar" else IMAGE_AUGMENT}
{network_tables("student", kind, depth)}
{fit_table(steps)}"""
    )
    return path


def student_run(folder: Path, root: Path, kind: Modality, depth: float = 0.0) -> StudentRun:
    return load_config(write_student_toml(folder, root, kind, depth=depth), StudentRun)
