"""A trained student, ready to detect: what it sees in, boxes out; no teacher, no cache."""

from collections.abc import Sequence

import torch

from frames.augment import BevAugment
from frames.detections import Detections
from frames.frame import Frame
from runs.checkpoint import Checkpoint
from student_train.config import StudentRun
from student_train.students.kinds import build_student


class StudentDetector:
    """A student frozen in eval mode.

    Args:
        checkpoint: A ``student.pt``.
        device: Where to run.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        self.run = checkpoint.run(StudentRun)
        self.device = device
        self.reader, self._known = self.run.reader, tuple[Frame, ...]()
        # Its weights come from the checkpoint: pretrained ones would be fetched for nothing.
        network = build_student(self.run.student.without_pretraining())
        self.network = checkpoint.load_frozen(network, device)

    def check(self, frames: Sequence[Frame]) -> None:
        """Refuse frames that lack what is read; from now on pasts are looked up among them, too.

        Raises:
            DataError: Naming the first such frame or file.
        """
        self.reader.check(frames, training=False)
        self._known = tuple(frames)

    @torch.inference_mode()
    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        """Decoded boxes of each frame; a past frame is one of these, or of those last checked."""
        identity, reader = BevAugment.identity(), self.reader.among([*self._known, *frames])
        seen = [reader.read(frame, identity, None) for frame in frames]
        output = self.network(seen[0].stack(seen).to(self.device))
        return [detections.cpu() for detections in self.network.detections(output)]
