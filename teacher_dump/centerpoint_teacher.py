"""CenterPoint behind the protocol: the LiDAR teacher of the multi-camera methods."""

from collections.abc import Sequence

import torch

from frames.augment import BevAugment
from frames.boxes import BoxBatch
from frames.detection_classes import DETECTION_CLASSES
from frames.detections import Detections
from frames.frame import Frame
from frames.loading import load_points
from nets.center_decode import decode
from nets.center_head import CenterMaps
from nets.centerpoint import CenterPoint, CenterPointConfig, CenterPointMaps
from runs.checkpoint import Checkpoint
from store.plan import TeacherShapes
from store.schema import MOST_FOUND, Target
from teacher_dump.center_answers import answers_at_centres
from teacher_dump.config import TeacherRun
from teacher_dump.protocol import TeacherInfo, TeacherOutput
from teacher_dump.stages import STAGES, of_stages


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
        self.network = checkpoint.load_frozen(CenterPoint(run.teacher), device)
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
