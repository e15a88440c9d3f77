"""A teacher together with its label encoder: ground truth's own maps go into the cache too."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from frames.augment import BevAugment
from frames.boxes import BoxBatch
from frames.detections import Detections
from frames.frame import Frame
from nets.label_encoder import frozen_label_encoder
from runs.checkpoint import load_checkpoint
from store.schema import Need, Places
from teacher_dump.protocol import Teacher, TeacherInfo, TeacherOutput
from teacher_dump.stages import LABELS, of_stages

# Where LabelDistill's loss reads them.
PLACES = {1: Places.CELLS, 2: Places.COARSE_CELLS}


class LabelTeacher:
    """What the teacher says, and what its label encoder makes of the boxes it is shown.

    Under stored views these are the augmented boxes.

    Args:
        teacher: Of any kind, so long as the encoder was trained for its checkpoint.
        path: The ``label_encoder.pt``.
        device: Where the encoder runs.

    Raises:
        CheckpointError: It was trained for another teacher.
    """

    def __init__(self, teacher: Teacher, path: Path, device: torch.device) -> None:
        checkpoint = load_checkpoint(path, "label_encoder")
        checkpoint.require_teacher(teacher.info.identity.checkpoint_sha256)
        self.teacher = teacher
        self.device = device
        self.encoder = frozen_label_encoder(checkpoint.config, checkpoint.load_into, device)
        config, shapes = self.encoder.config, teacher.info.shapes
        self.stages = of_stages(LABELS, config.strides)
        channels = {target: config.channels[k] for target, k in self.stages}
        self.info = replace(
            teacher.info,
            label_encoder=checkpoint.sha256,
            shapes=replace(shapes, further={**shapes.further, **channels}),
        )

    def __call__(
        self, frames: Sequence[Frame], boxes: BoxBatch, augments: Sequence[BevAugment]
    ) -> TeacherOutput:
        """See :class:`teacher_dump.protocol.Teacher`."""
        said = self.teacher(frames, boxes, augments)
        with torch.inference_mode():
            maps = self.encoder(boxes.to(self.device))
        labels = {target: maps[k] for target, k in self.stages}
        return replace(said, maps={**said.maps, **labels})

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        """The teacher's own."""
        return self.teacher.detect(frames)


def label_needs(info: TeacherInfo) -> list[Need]:
    """Its label maps at the cells of ground truth's Gaussians; none without an encoder."""
    if info.label_encoder is None:
        return []
    held = info.shapes.further
    return [Need(t, PLACES[stride]) for stride, t in LABELS.items() if t in held]
