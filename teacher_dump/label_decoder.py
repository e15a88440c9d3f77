"""What finds boxes in a label encoder's maps: the teacher's own neck and head, frozen."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from frames.boxes import BoxBatch
from frames.detections import Detections
from frames.frame import Frame
from nets.bev_backbone import BEVNeck
from nets.center_decode import decode
from nets.center_head import CenterHead, CenterMaps
from nets.centerpoint import CenterPointConfig
from nets.frozen import Frozen
from nets.label_encoder import frozen_label_encoder
from runs.checkpoint import Checkpoint
from teacher_dump.config import TeacherRun
from teacher_dump.errors import TeacherError

PARTS = ("neck.", "head.")


class LabelDecoder(Frozen):
    """Neck and head of a CenterPoint; they never leave eval mode.

    The released code freezes their weights alone: its trainer puts them back in train mode, so that
    their BatchNorms see and follow the label maps (docs/label-encoder.md). Here they stay what the
    cache was made with.

    Args:
        teacher: A ``teacher.pt`` of a CenterPoint. Its encoder and backbone are not built: no
            spconv.

    Raises:
        TeacherError: It is another network.
        CheckpointError: Its weights do not fit its config.
    """

    def __init__(self, teacher: Checkpoint) -> None:
        super().__init__()
        run = teacher.run(TeacherRun)
        if not isinstance(run.teacher, CenterPointConfig):
            raise TeacherError(
                f"teacher {run.name} is a {run.teacher.network}: a label encoder inverts a centre "
                "head, so give the checkpoint of a centerpoint"
            )
        self.config = run.teacher
        self.neck = BEVNeck(run.teacher.backbone)
        self.head = CenterHead(run.teacher.head)
        own = {name: value for name, value in teacher.weights.items() if name.startswith(PARTS)}
        replace(teacher, weights=own).load_into(self)
        self.eval().requires_grad_(requires_grad=False)

    def forward(self, stages: list[Float[Tensor, "b _ _ _"]]) -> CenterMaps:
        """Heatmaps and box codes that the maps stand for."""
        maps: CenterMaps = self.head(self.neck(stages))
        return maps


class LabelDetector:
    """Boxes through the encoder and back: how well it inverts the head, as official scores.

    Args:
        labels: A ``label_encoder.pt``.
        teacher: The ``teacher.pt`` that it was trained for.
        device: Where to run.

    Raises:
        CheckpointError: It was trained for another teacher.
    """

    def __init__(self, labels: Checkpoint, teacher: Checkpoint, device: torch.device) -> None:
        labels.require_teacher(teacher.sha256)
        self.encoder = frozen_label_encoder(labels.config, labels.load_into, device)
        self.decoder = LabelDecoder(teacher).to(device)
        self.device = device

    @torch.inference_mode()
    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        """What the teacher's head finds in the label maps of each frame's ground truth."""
        boxes = BoxBatch.pad([frame.boxes for frame in frames]).to(self.device)
        maps = self.decoder(self.encoder(boxes))
        config = self.decoder.config
        return [found.cpu() for found in decode(maps, config.grid, config.decode)]
