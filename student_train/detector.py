"""A trained student, ready to detect: images in, boxes out; no LiDAR, no teacher, no cache."""

from collections.abc import Sequence

import torch

from frames.augment import BevAugment
from frames.detections import Detections
from frames.frame import Frame
from nets.center_decode import decode
from runs.checkpoint import Checkpoint
from runs.config import parse_config
from student_train.config import StudentRun
from student_train.data import CameraInput, camera_input
from student_train.student import Student


class StudentDetector:
    """A student frozen in eval mode.

    Args:
        checkpoint: A ``student.pt``.
        device: Where to run.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        self.run = parse_config(
            checkpoint.config, StudentRun, f"checkpoint {checkpoint.sha256[:12]}"
        )
        self.device = device
        # Its weights come from the checkpoint: pretrained ones would be fetched for nothing.
        self.network = Student(self.run.student.without_pretraining()).to(device)
        checkpoint.load_into(self.network)
        self.network.eval().requires_grad_(requires_grad=False)

    @torch.inference_mode()
    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        """Decoded boxes of each frame."""
        identity = BevAugment.identity()
        inputs = [camera_input(frame, self.run, identity, None) for frame in frames]
        cameras = CameraInput.stack(inputs).to(self.device)
        output = self.network(cameras.images, cameras.geometry)
        config = self.run.student
        found = decode(output.maps.head, config.grid, config.decode)
        return [detections.cpu() for detections in found]
