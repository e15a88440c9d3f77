"""Ground truth as a trained label encoder sees it, for LabelDistill without cached label maps."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from frames.boxes import BoxBatch
from nets.label_encoder import LabelEncoderConfig, frozen_label_encoder
from runs.checkpoint import load_checkpoint
from runs.errors import ConfigError
from student_train.methods.base import MethodContext

# Strides of the two maps against the grid.
STRIDES = (1, 2)


class LabelEmbedding:
    """A frozen label encoder in eval mode.

    It is no sub-module of the method: it stays out of train mode, and out of what a run saves.

    Args:
        path: The ``label_encoder.pt``.
        context: The teacher it must have been trained for, and the grid.

    Raises:
        CheckpointError: No label encoder there, or one of another teacher.
        ConfigError: It has another grid, or no map at full or at half resolution.
    """

    def __init__(self, path: Path, context: MethodContext) -> None:
        checkpoint = load_checkpoint(path, "label_encoder")
        checkpoint.require_teacher(context.teacher_sha256)
        self._encoder = frozen_label_encoder(
            checkpoint.config, checkpoint.load_into, torch.device("cpu")
        )
        config = self._encoder.config
        if config.grid != context.grid or not set(STRIDES) <= set(config.strides):
            raise ConfigError(
                f"{path} has the grid ({config.grid}) and strides {config.strides}; expected the "
                f"student's grid ({context.grid}) and strides {STRIDES} among them: train one for "
                "this teacher and grid"
            )
        self._stages = [config.strides.index(stride) for stride in STRIDES]

    @property
    def channels(self) -> list[int]:
        """Of the maps at full and at half resolution."""
        config: LabelEncoderConfig = self._encoder.config
        return [config.channels[stage] for stage in self._stages]

    @torch.no_grad()
    def __call__(self, boxes: BoxBatch) -> list[Float[Tensor, "b _ _ _"]]:
        """Maps of the boxes at full and at half resolution, in the boxes' own frame."""
        device = boxes.values.device
        with torch.autocast(device.type, enabled=False):
            maps = self._encoder.to(device)(boxes)
        return [maps[stage] for stage in self._stages]
