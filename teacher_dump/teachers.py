"""The project's own teachers, behind the protocol."""

from collections.abc import Sequence
from pathlib import Path

import torch

from frames.augment import BevAugment
from frames.boxes import BoxBatch
from frames.detection_classes import DETECTION_CLASSES
from frames.detections import Detections
from frames.frame import Frame
from frames.loading import load_points
from nets.bev_detector import BEVDetectorConfig
from nets.bevfusion import BEVFusionConfig
from nets.center_decode import decode
from nets.center_head import CenterMaps
from runs.checkpoint import Checkpoint, load_checkpoint
from runs.config import parse_config
from store.plan import TeacherShapes
from store.schema import Target
from teacher_dump.bev_teacher import BEVTeacher
from teacher_dump.center_answers import answers_at_centres
from teacher_dump.centerpoint import CenterPoint, CenterPointConfig, CenterPointMaps
from teacher_dump.config import TeacherRun
from teacher_dump.errors import TeacherError
from teacher_dump.found_boxes import MOST_FOUND
from teacher_dump.protocol import Teacher, TeacherInfo, TeacherOutput
from teacher_dump.stages import STAGES, of_stages


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
    run = parse_config(checkpoint.config, TeacherRun, f"checkpoint {checkpoint.sha256[:12]}")
    if isinstance(run.teacher, CenterPointConfig):
        return CenterPointTeacher(checkpoint, run, device)
    if isinstance(run.teacher, BEVDetectorConfig | BEVFusionConfig):
        return BEVTeacher(checkpoint, run, device)
    # Here, for spconv takes seconds to import and other teachers need none of it.
    from teacher_dump.second_teacher import SecondTeacher

    return SecondTeacher(checkpoint, run, device)


class CenterPointTeacher:
    """CenterPoint frozen in eval mode; its box for an object is read at the centre cell.

    Args:
        checkpoint: A ``teacher.pt``.
        run: Its resolved config.
        device: Where to run.
    """

    def __init__(self, checkpoint: Checkpoint, run: TeacherRun, device: torch.device) -> None:
        assert isinstance(run.teacher, CenterPointConfig)
        self.device = device
        self.config = run.teacher
        self.network = CenterPoint(run.teacher).to(device)
        checkpoint.load_into(self.network)
        self.network.eval().requires_grad_(requires_grad=False)
        self.stages = of_stages(STAGES, run.teacher.backbone.total_strides)
        self.info = TeacherInfo(
            identity=run.identity(checkpoint.sha256),
            shapes=TeacherShapes(
                bev_low=run.teacher.encoder.out_channels,
                bev_high=run.teacher.backbone.out_channels,
                classes=len(DETECTION_CLASSES),
                tasks=len(run.teacher.head.tasks),
                grid=run.teacher.grid,
                further={stage: run.teacher.backbone.channels[k] for stage, k in self.stages},
                detections=MOST_FOUND,
            ),
            classes=DETECTION_CLASSES,
            sweeps=run.data.sweeps,
        )

    def __call__(
        self, frames: Sequence[Frame], boxes: BoxBatch, augments: Sequence[BevAugment]
    ) -> TeacherOutput:
        """See :class:`teacher_dump.protocol.Teacher`."""
        seen = zip(frames, augments, strict=True)
        maps = self._run([augment.points(load_points(frame)) for frame, augment in seen])
        features = {Target.BEV_LOW: maps.bev_low, Target.BEV_HIGH: maps.bev_high}
        features |= {stage: maps.stages[k] for stage, k in self.stages}
        truth = boxes.to(self.device)
        return answers_at_centres(maps.head, truth, self.config.grid, features, self._decode)

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        """Decoded boxes of each frame."""
        maps = self._run([load_points(frame) for frame in frames])
        return [detections.cpu() for detections in self._decode(maps.head)]

    def _decode(self, head: CenterMaps) -> list[Detections]:
        return decode(head, self.config.grid, self.config.decode)

    @torch.inference_mode()
    def _run(self, clouds: Sequence[torch.Tensor]) -> CenterPointMaps:
        maps: CenterPointMaps = self.network([cloud.to(self.device) for cloud in clouds])
        return maps
