"""A tiny CenterPoint as a training run would leave it, but with random weights."""

from pathlib import Path

import torch

from runs.checkpoint import save_checkpoint
from teacher_dump.train import teacher_training
from tests.tiny import teacher_run


def write_untrained_teacher(folder: Path, root: Path, seed: int = 0) -> Path:
    """The checkpoint's path."""
    run = teacher_run(folder, root)
    torch.manual_seed(seed)
    path = folder / "teacher.pt"
    save_checkpoint(path, "teacher", run.model_dump(mode="json"), teacher_training(run).network, {})
    return path
