"""UniDistill's detector and BEVFusion behind the protocol: LiDAR, camera or fusion teachers."""

from collections.abc import Sequence

import torch

from frames.augment import BevAugment
from frames.boxes import BoxBatch
from frames.camera_input import check_cameras
from frames.detections import Detections
from frames.frame import Frame
from frames.sensor_input import SensorInput
from nets.bev_detector import BEVDetector, BEVDetectorConfig, BEVMaps
from nets.bevfusion import BEVFusion, BEVFusionConfig
from runs.checkpoint import Checkpoint
from store.plan import TeacherShapes
from store.schema import MOST_FOUND, Target
from teacher_dump.center_answers import answers_at_centres
from teacher_dump.config import TeacherRun
from teacher_dump.protocol import TeacherInfo, TeacherOutput


class BEVTeacher:
    """The detector frozen in eval mode; its box for an object is read at the centre cell.

    ``bev_low`` is the map that all kinds have in common, of a fusion teacher the fused one; that
    teacher's branches are ``bev_lidar`` and ``bev_camera``.

    Args:
        checkpoint: A ``teacher.pt``.
        run: Its resolved config.
        device: Where to run.
    """

    def __init__(self, checkpoint: Checkpoint, run: TeacherRun, device: torch.device) -> None:
        config = run.teacher
        assert isinstance(config, BEVDetectorConfig | BEVFusionConfig)
        self.device = device
        self.reader = run.reader
        # Its weights come from the checkpoint: pretrained ones would be fetched for nothing.
        network = bev_network(config.without_pretraining())
        self.network = checkpoint.load_frozen(network, device)
        self.info = TeacherInfo(
            identity=run.identity(checkpoint.sha256),
            shapes=TeacherShapes(
                bev_low=config.low_channels,
                bev_high=config.high_channels,
                classes=len(config.classes),
                tasks=len(config.head.tasks),
                grid=config.grid,
                code_size=config.head.code_size,
                further=_branch_channels(config),
                detections=MOST_FOUND,
            ),
            classes=config.classes,
            sweeps=run.data.sweeps,
        )

    def __call__(
        self, frames: Sequence[Frame], boxes: BoxBatch, augments: Sequence[BevAugment]
    ) -> TeacherOutput:
        """See :class:`teacher_dump.protocol.Teacher`."""
        maps = self._run(frames, augments)
        features = {
            Target.BEV_LOW: maps.bev_low,
            Target.BEV_HIGH: maps.bev_high,
            Target.BEV_LIDAR: maps.bev_lidar,
            Target.BEV_CAMERA: maps.bev_camera,
        }
        given = {target: map_ for target, map_ in features.items() if map_ is not None}
        truth, grid = boxes.to(self.device), self.network.config.grid
        return answers_at_centres(maps.head, truth, grid, given, self.network.detections)

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        """Decoded boxes of each frame."""
        maps = self._run(frames, [BevAugment.identity()] * len(frames))
        return [detections.cpu() for detections in self.network.detections(maps.head)]

    @torch.inference_mode()
    def _run(self, frames: Sequence[Frame], augments: Sequence[BevAugment]) -> BEVMaps:
        if self.reader.kind != "lidar":
            check_cameras(frames, self.reader.cameras)
        pairs = zip(frames, augments, strict=True)
        seen = SensorInput.stack(
            [self.reader.read(frame, augment, None) for frame, augment in pairs]
        )
        maps: BEVMaps = self.network(seen.to(self.device))
        return maps


def bev_network(config: BEVDetectorConfig | BEVFusionConfig) -> BEVDetector | BEVFusion:
    """The network, with fresh weights."""
    return BEVFusion(config) if isinstance(config, BEVFusionConfig) else BEVDetector(config)


def _branch_channels(config: BEVDetectorConfig | BEVFusionConfig) -> dict[Target, int]:
    """Channels of a fusion teacher's branches; others have none."""
    if config.branch_channels is None:
        return {}
    return dict(zip((Target.BEV_LIDAR, Target.BEV_CAMERA), config.branch_channels, strict=True))
