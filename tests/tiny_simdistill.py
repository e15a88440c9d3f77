"""SimDistill's teacher and student, small enough for a test."""

from pathlib import Path

import torch

from runs.checkpoint import save_checkpoint
from runs.config import load_config
from student_train.config import StudentRun
from teacher_dump.config import TeacherRun
from teacher_dump.train import teacher_training
from tests.tiny import DECODE, GRID, TASKS, data_table, fit_table
from tests.tiny_unidistill import IMAGE_AUGMENT, LIDAR

FLIPS = "flip_x = 0.5\nflip_y = 0.5\n"
TURNS = FLIPS + "rotation = 0.3\nscale = [0.95, 1.05]\nshift = 0.5\n"


def shared_tables(role: str, depth: float) -> str:
    return f"""depth_loss_weight = {depth}
[{role}.grid]
{GRID}
[{role}.image]
name = "resnet18"
args = {{ layers = [1, 1, 1, 1], channels = [8, 8, 8, 8] }}
level_strides = [8]
stride = 8
up_channels = 8
[{role}.lift]
z_range = [-3.0, 5.0]
[{role}.lift.depth]
in_channels = 8
stride = 8
context_channels = 8
bins = {{ start = 1.0, stop = 41.0, step = 4.0 }}
[{role}.decoder]
in_channels = 10
widths = [8, 12]
blocks = [1, 1]
strides = [2, 1]
out_channels = 8
[{role}.head]
in_channels = 8
shared_channels = 8
head_channels = 8
{TASKS}
[{role}.decode]
{DECODE}
"""


def write_teacher_toml(folder: Path, root: Path, depth: float = 0.0) -> Path:
    path = folder / "sim_teacher.toml"
    path.write_text(
        f"""name = "tiny-bevfusion"
{data_table(root)}
[augment]
{FLIPS}
{IMAGE_AUGMENT}
[teacher]
network = "bevfusion"
{shared_tables("teacher", depth)}
{LIDAR.format(role="teacher")}
{fit_table(2)}"""
    )
    return path


def write_student_toml(
    folder: Path, root: Path, *, augment: str = FLIPS, depth: float = 0.0, method: str = ""
) -> Path:
    """A student; ``method`` are lines of the table ``[methods.simdistill]``."""
    path = folder / "sim_student.toml"
    path.write_text(
        f"""name = "tiny-simulated"
method = "simdistill"
{data_table(root)}
[bev_augment]
{augment}
{IMAGE_AUGMENT}
[student]
network = "simulated_fusion"
image_size = [32, 88]
in_image = {{ heads = 2, points = 3 }}
in_bev = {{ heads = 2, points = 4 }}
{shared_tables("student", depth)}
[methods.simdistill]
{method}
{fit_table(2)}"""
    )
    return path


def teacher_run(folder: Path, root: Path) -> TeacherRun:
    return load_config(write_teacher_toml(folder, root), TeacherRun)


def student_run(folder: Path, root: Path, *, augment: str = FLIPS, method: str = "") -> StudentRun:
    return load_config(write_student_toml(folder, root, augment=augment, method=method), StudentRun)


def write_untrained_teacher(folder: Path, root: Path) -> Path:
    """A BEVFusion with random weights; the checkpoint's path."""
    run = teacher_run(folder, root)
    torch.manual_seed(0)
    path = folder / "sim_teacher.pt"
    network = teacher_training(run).network
    save_checkpoint(path, "teacher", run.model_dump(mode="json"), network, {})
    return path
