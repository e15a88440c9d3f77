"""The project's own teachers, from their checkpoints."""

from pathlib import Path

import torch

from nets.bev_detector import BEVDetectorConfig
from nets.bevfusion import BEVFusionConfig
from nets.centerpoint import CenterPointConfig
from runs.checkpoint import Checkpoint, load_checkpoint
from teacher_dump.bev_teacher import BEVTeacher
from teacher_dump.centerpoint_teacher import CenterPointTeacher
from teacher_dump.config import TeacherRun
from teacher_dump.errors import TeacherError
from teacher_dump.protocol import Teacher


def from_checkpoint(checkpoint: Path | None, device: torch.device) -> Teacher:
    """The teacher of a checkpoint of ``train-teacher``.

    Raises:
        TeacherError: No checkpoint given.
        CheckpointError: It cannot be read or is no teacher.
    """
    if checkpoint is None:
        raise TeacherError("this teacher needs --checkpoint, the teacher.pt of train-teacher")
    return own_teacher(load_checkpoint(checkpoint, "teacher"), device)


def own_teacher(checkpoint: Checkpoint, device: torch.device) -> Teacher:
    """The same of a checkpoint that has been read."""
    run = checkpoint.run(TeacherRun)
    if isinstance(run.teacher, CenterPointConfig):
        return CenterPointTeacher(checkpoint, run, device)
    if isinstance(run.teacher, BEVDetectorConfig | BEVFusionConfig):
        return BEVTeacher(checkpoint, run, device)
    # Here, for spconv takes seconds to import and other teachers need none of it.
    from teacher_dump.second_teacher import SecondTeacher

    return SecondTeacher(checkpoint, run, device)
