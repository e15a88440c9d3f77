"""A teacher that may end its process: --checkpoint names a folder, and there the file deaths.

Where the folder holds a file ``slow`` too, it takes its time instead of dying.
"""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from examples.geometric_teacher import GeometricTeacher
from frames.augment import BevAugment
from frames.boxes import BoxBatch
from frames.frame import Frame
from teacher_dump.protocol import TeacherOutput

# Batches that a process lives through: with 4 frames each, it dies within its second part.
BATCHES = 5


class MortalTeacher(GeometricTeacher):
    def __init__(self, folder: Path, device: torch.device) -> None:
        super().__init__(device)
        self.folder = folder
        self.deaths = int((folder / "deaths").read_text())
        self.calls = 0

    def __call__(
        self, frames: Sequence[Frame], boxes: BoxBatch, augments: Sequence[BevAugment]
    ) -> TeacherOutput:
        self.calls += 1
        if self.calls > BATCHES and (self.folder / "slow").exists():
            time.sleep(0.5)
        if self.calls > BATCHES and len(list(self.folder.glob("dead-*"))) < self.deaths:
            (self.folder / f"dead-{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(frames, boxes, augments)


def factory(checkpoint: Path | None, device: torch.device) -> MortalTeacher:
    assert checkpoint is not None
    return MortalTeacher(checkpoint, device)
