"""SECOND behind the protocol: LIGA-Stereo's and StereoDistill's LiDAR teacher."""

from collections.abc import Sequence

import torch

from frames.anchor_code import decode_at_anchors
from frames.augment import BevAugment
from frames.boxes import BoxBatch
from frames.detections import Detections
from frames.frame import Frame
from frames.loading import load_points
from nets.anchor_decode import decode
from nets.second import Second, SecondMaps
from nets.voxelize import voxelize
from runs.checkpoint import Checkpoint
from store.plan import TeacherShapes
from store.schema import Target
from teacher_dump.anchor_answers import answers_at_anchors
from teacher_dump.config import TeacherRun
from teacher_dump.protocol import AnchorOutput, TeacherInfo, TeacherOutput
from teacher_dump.second_teacher_config import SecondTeacherConfig


class SecondTeacher:
    """SECOND frozen in eval mode.

    ``bev_low`` is its sparse volume, heights merged into channels; ``bev_high`` what the head
    reads. Both are what LIGA-Stereo's student imitates.

    Args:
        checkpoint: A ``teacher.pt``.
        run: Its resolved config.
        device: Where to run.
    """

    def __init__(self, checkpoint: Checkpoint, run: TeacherRun, device: torch.device) -> None:
        assert isinstance(run.teacher, SecondTeacherConfig)
        self.device = device
        self.config = run.teacher
        self.network = checkpoint.load_frozen(Second(run.teacher), device)
        anchors = run.teacher.bev.anchors
        self.info = TeacherInfo(
            identity=run.identity(checkpoint.sha256),
            shapes=TeacherShapes(
                bev_low=run.teacher.out_channels * run.teacher.slices,
                bev_high=run.teacher.bev.head.channels,
                classes=len(anchors.classes),
                tasks=0,
                grid=anchors.grid,
                further={Target.ANCHOR_LOGIT: anchors.per_cell * len(anchors.classes)},
            ),
            classes=run.teacher.classes,
            sweeps=run.data.sweeps,
            anchors=anchors,
        )

    def __call__(
        self, frames: Sequence[Frame], boxes: BoxBatch, augments: Sequence[BevAugment]
    ) -> TeacherOutput:
        """See :class:`teacher_dump.protocol.Teacher`."""
        seen = zip(frames, augments, strict=True)
        maps = self._run([augment.points(load_points(frame)) for frame, augment in seen])
        said = maps.bev.anchors
        anchors = AnchorOutput(
            logit=said.logit,
            box=decode_at_anchors(said.code.float(), maps.bev.table.expand_as(said.code)),
            direction=said.direction.argmax(-1),
        )
        answers = answers_at_anchors(anchors, boxes, self.config.bev.anchors)
        return TeacherOutput(
            maps={Target.BEV_LOW: maps.volume, Target.BEV_HIGH: maps.bev.high},
            boxes=answers.boxes,
            scores=answers.scores,
            labels=answers.labels,
            answered=answers.answered,
            anchors=anchors,
        )

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        """Decoded boxes of each frame."""
        maps = self._run([load_points(frame) for frame in frames])
        found = decode(maps.bev.anchors, maps.bev.table, self.config.decode)
        return [detections.cpu() for detections in found]

    @torch.inference_mode()
    def _run(self, clouds: Sequence[torch.Tensor]) -> SecondMaps:
        width = self.config.in_channels
        points = [cloud[:, :width].to(self.device) for cloud in clouds]
        maps: SecondMaps = self.network(voxelize(points, self.config.voxels))
        return maps
