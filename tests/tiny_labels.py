"""A tiny teacher with stages at full and at half resolution, and its label encoder."""

from pathlib import Path

import torch

from runs.checkpoint import save_checkpoint
from runs.config import load_config
from teacher_dump.config import TeacherRun
from teacher_dump.label_config import LabelEncoderRun
from teacher_dump.train import teacher_training
from tests.tiny import GRID, data_table, fit_table, write_teacher_toml

ONE_STAGE = "channels = [8]\nlayers = [1]\nstrides = [1]\nup_channels = [8]\n"
TWO_STAGES = "channels = [6, 10]\nlayers = [1, 1]\nstrides = [1, 2]\nup_channels = [4, 4]\n"


def write_staged_teacher_toml(folder: Path, root: Path) -> Path:
    path = write_teacher_toml(folder, root)
    text = path.read_text()
    assert ONE_STAGE in text
    path.write_text(text.replace(ONE_STAGE, TWO_STAGES))
    return path


def write_staged_teacher(folder: Path, root: Path, seed: int = 0) -> Path:
    """An untrained one's checkpoint."""
    run = load_config(write_staged_teacher_toml(folder, root), TeacherRun)
    torch.manual_seed(seed)
    path = folder / "teacher.pt"
    save_checkpoint(path, "teacher", run.model_dump(mode="json"), teacher_training(run).network, {})
    return path


def write_label_encoder_toml(folder: Path, root: Path, steps: int = 2) -> Path:
    path = folder / "label_encoder.toml"
    path.write_text(
        f"""name = "tiny-labels"
{data_table(root)}
[encoder]
channels = [6, 10]
strides = [1, 2]
width = 8
[encoder.grid]
{GRID}
{fit_table(steps)}"""
    )
    return path


def label_encoder_run(folder: Path, root: Path, steps: int = 2) -> LabelEncoderRun:
    return load_config(write_label_encoder_toml(folder, root, steps), LabelEncoderRun)
