"""Runs small enough for a test: the demo's TOMLs with a coarse grid and narrow networks."""

from pathlib import Path

from runs.config import load_config
from student_train.config import StudentRun
from teacher_dump.config import TeacherRun

GRID = "x_min = -38.4\ny_min = -38.4\ncell_size = 4.8\nshape = [16, 16]\n"
TASKS = """tasks = [
    ["car", "truck", "construction_vehicle", "bus", "trailer"],
    ["barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone"],
]
"""
DECODE = "score_threshold = 0.01\ncircle_squared = [4.0, 0.3]\n"


def fit_table(steps: int) -> str:
    return f"""[fit]
steps = {steps}
batch_size = 2
schedule = "flat"
warmup = 0.0
average = 0.5
threads = 1
log_every = 1
save_every = 1
"""


def data_table(root: Path) -> str:
    return f'[data]\nroot = "{root}"\nversion = "v1.0-world"\nsplit = "world_train"\nsweeps = 2\n'


def write_teacher_toml(folder: Path, root: Path, steps: int = 2) -> Path:
    path = folder / "teacher.toml"
    path.write_text(
        f"""name = "tiny-teacher"
{data_table(root)}
[teacher.grid]
{GRID}
[teacher.encoder]
kind = "pillar"
channels = 8
stride = 2
[teacher.encoder.voxels]
range_min = [-38.4, -38.4, -3.0]
range_max = [38.4, 38.4, 5.0]
voxel_size = [2.4, 2.4, 8.0]
[teacher.backbone]
in_channels = 8
channels = [8]
layers = [1]
strides = [1]
up_channels = [8]
[teacher.head]
in_channels = 8
shared_channels = 8
head_channels = 8
{TASKS}
[teacher.decode]
{DECODE}
{fit_table(steps)}"""
    )
    return path


def write_student_toml(folder: Path, root: Path, steps: int = 2, depth: float = 0.0) -> Path:
    path = folder / "student.toml"
    path.write_text(
        f"""name = "tiny-student"
{data_table(root)}
[image_augment]
out_size = [32, 88]
resize = [0.66, 0.75]
flip = 0.5
[bev_augment]
flip_x = 0.5
flip_y = 0.5
shift = 0.5
rotation = 0.3
scale = [0.95, 1.05]
[student]
depth_loss_weight = {depth}
[student.grid]
{GRID}
[student.image]
name = "resnet18"
args = {{ layers = [1, 1, 1, 1], channels = [8, 8, 8, 8] }}
level_strides = [8]
stride = 8
up_channels = 8
[student.depth]
in_channels = 8
stride = 8
channels = 8
context_channels = 6
depth_blocks = 1
bins = {{ start = 1.0, stop = 41.0, step = 4.0 }}
[student.backbone]
in_channels = 6
channels = [8]
layers = [1]
strides = [1]
up_channels = [8]
[student.head]
in_channels = 8
shared_channels = 8
head_channels = 8
{TASKS}
[student.decode]
{DECODE}
{fit_table(steps)}[methods.unidistill]
adapters = "conv1x1"
"""
    )
    return path


def write_past_student_toml(folder: Path, root: Path) -> Path:
    """The same student with two past frames and BEVDepth's trunk."""
    path = write_student_toml(folder, root, depth=1.0)
    document = path.read_text().replace("[student]\n", "[student]\npast = [-1, -2]\n")
    plain = document[document.index("[student.backbone]") : document.index("[student.head]")]
    resnet = """[student.backbone]
kind = "resnet"
in_channels = 18
widths = [9, 12]
blocks = [1, 1]
up_channels = [2, 3, 3]
"""
    path.write_text(document.replace(plain, resnet))
    return path


def teacher_run(folder: Path, root: Path, steps: int = 2) -> TeacherRun:
    return load_config(write_teacher_toml(folder, root, steps), TeacherRun)


def student_run(folder: Path, root: Path, steps: int = 2, depth: float = 0.0) -> StudentRun:
    return load_config(write_student_toml(folder, root, steps, depth), StudentRun)
