"""Runs small enough for a test on a KITTI tree: a small SECOND, a small LIGA-Stereo."""

from pathlib import Path

from runs.config import load_config
from student_train.config import StudentRun
from teacher_dump.config import TeacherRun
from tests.tiny import fit_table

GRID = "x_min = 2.0\ny_min = -16.0\ncell_size = 2.0\nshape = [16, 16]\n"
RANGE = "[2.0, -16.0, -3.0, 34.0, 16.0, 1.0]"
VOXELS = "range_min = [2.0, -16.0, -3.0]\nrange_max = [34.0, 16.0, 1.0]\n"


def data_table(root: Path, split: str, cameras: str = "") -> str:
    return f"""[data]
dataset = "kitti"
root = "{root}"
split = "{split}"
box_range = {RANGE}
{cameras}
"""


def write_second_toml(folder: Path, root: Path, split: str = "world_train", steps: int = 2) -> Path:
    path = folder / "second.toml"
    path.write_text(
        f"""name = "tiny-second"
{data_table(root, split, "cameras = []")}
[teacher]
network = "second"
channels = [4, 4, 4, 4]
out_channels = 4
[teacher.voxels]
{VOXELS}
voxel_size = [0.5, 0.5, 0.5]
[teacher.bev]
width = 8
[teacher.bev.head]
channels = 8
layers = 1
groups = 0
[teacher.bev.anchors.grid]
{GRID}
[augment]
flip_y = 0.5
{fit_table(steps)}"""
    )
    return path


def write_liga_toml(folder: Path, root: Path, split: str = "world_train", steps: int = 2) -> Path:
    path = folder / "liga.toml"
    path.write_text(
        f"""name = "tiny-liga"
{data_table(root, split)}
[bev_augment]
flip_y = 0.5
[student]
network = "liga"
image_size = [32, 96]
[student.backbone]
stem = 4
widths = [4, 4, 4, 4]
blocks = [1, 1, 1, 1]
pools = [4]
pooled = 4
up = [4, 4]
semantic = [4, 4]
groups = 2
[student.depth]
planes = {{ start = 2.0, stop = 34.0, step = 4.0 }}
channels = 4
width = 4
groups = 2
[student.voxels]
channels = 4
pool_z = 1
groups = 2
[student.voxels.grid]
{VOXELS}
voxel_size = [2.0, 2.0, 4.0]
[student.bev]
width = 8
[student.bev.head]
channels = 8
layers = 1
groups = 2
[student.bev.anchors.grid]
{GRID}
[methods.liga]
heights = 1
{fit_table(steps)}"""
    )
    return path


def second_run(folder: Path, root: Path) -> TeacherRun:
    return load_config(write_second_toml(folder, root), TeacherRun)


def liga_run(folder: Path, root: Path) -> StudentRun:
    return load_config(write_liga_toml(folder, root), StudentRun)
