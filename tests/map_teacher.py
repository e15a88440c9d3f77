"""A teacher that gives every map LabelDistill reads: random ones, a frame's own."""

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from frames.augment import BevAugment
from frames.boxes import BoxBatch
from frames.detection_classes import DETECTION_CLASSES
from frames.detections import Detections
from frames.frame import Frame
from frames.grid import BEVGrid
from nets.center_head import CENTERPOINT_TASKS, CenterHeadConfig, CenterMaps, codes_at
from store.fingerprint import TeacherIdentity
from store.plan import TeacherShapes
from store.schema import Target
from teacher_dump.protocol import TeacherInfo, TeacherOutput

CLASS_TASK = torch.tensor(CenterHeadConfig().class_task)


class MapTeacher:
    """Maps drawn for each frame's token; features are not negative, as after a ReLU.

    Args:
        grid: Of the maps.
        width: Channels at full resolution; twice as many at half.
    """

    def __init__(self, grid: BEVGrid, width: int = 4) -> None:
        features = {Target.STAGE_0: width, Target.STAGE_1: 2 * width}
        features |= {Target.LABEL_0: width, Target.LABEL_1: 2 * width}
        self.info = TeacherInfo(
            identity=TeacherIdentity(
                name="maps", kind="lidar", checkpoint_sha256="cd" * 32, config={}
            ),
            shapes=TeacherShapes(
                bev_low=0, bev_high=0, classes=10, tasks=6, grid=grid, further=features
            ),
            classes=DETECTION_CLASSES,
            sweeps=1,
        )

    def maps(self, token: str) -> dict[Target, Tensor]:
        """The whole maps of a frame, as a batch of one."""
        rng = torch.Generator().manual_seed(zlib.crc32(token.encode()))
        shapes = self.info.shapes
        maps = {
            target: torch.randn(
                1, shapes.channels(target), *shapes.grid_of(target).shape, generator=rng
            )
            for target in (*shapes.further, Target.HEATMAP_LOGIT, Target.BOX_CODE)
        }
        return maps | {target: maps[target].relu() for target in shapes.further}

    def head(self, token: str) -> CenterMaps:
        """What its head says of a frame."""
        maps = self.maps(token)
        code = maps[Target.BOX_CODE].unflatten(1, (len(CENTERPOINT_TASKS), -1))
        return CenterMaps(maps[Target.HEATMAP_LOGIT], code, CLASS_TASK)

    def __call__(
        self,
        frames: Sequence[Frame],
        boxes: BoxBatch,
        augments: Sequence[BevAugment],  # noqa: ARG002
    ) -> TeacherOutput:
        each = [self.maps(frame.token) for frame in frames]
        maps = {target: torch.cat([one[target] for one in each]) for target in each[0]}
        cell = self.info.shapes.grid.cell_index(boxes.values[..., :2])
        code = maps[Target.BOX_CODE].unflatten(1, (len(CENTERPOINT_TASKS), -1))
        head = CenterMaps(maps[Target.HEATMAP_LOGIT], code, CLASS_TASK)
        return TeacherOutput(
            maps=maps,
            boxes=boxes.values,
            scores=boxes.valid.float(),
            labels=boxes.labels,
            answered=boxes.valid,
            codes=codes_at(head, boxes.labels, cell),
        )

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        raise NotImplementedError(f"{len(frames)} frames: a dump asks for no detections")
