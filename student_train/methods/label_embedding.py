"""Ground truth as a trained label encoder sees it, for LabelDistill without cached label maps."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from frames.boxes import BoxBatch
from nets.label_encoder import frozen_label_encoder
from runs.checkpoint import load_checkpoint
from runs.errors import ConfigError
from student_train.methods.base import MethodContext

# Strides of the two maps against the grid.
STRIDES = (1, 2)


class LabelEmbedding(nn.Module):
    """A frozen label encoder, and which of its maps are wanted.

    Args:
        path: The ``label_encoder.pt``.
        context: The teacher it must have been trained for, and the grid.

    Raises:
        CheckpointError: No label encoder there, or one of another teacher.
        ConfigError: It has another grid, or no map at full or at half resolution.
    """

    def __init__(self, path: Path, context: MethodContext) -> None:
        super().__init__()
        checkpoint = load_checkpoint(path, "label_encoder")
        checkpoint.require_teacher(context.teacher_sha256)
        # The trainer moves it with the method.
        self.encoder = frozen_label_encoder(
            checkpoint.config, checkpoint.load_into, torch.device("cpu")
        )
        config = self.encoder.config
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
        return [self.encoder.config.channels[stage] for stage in self._stages]

    @torch.no_grad()
    def forward(self, boxes: BoxBatch) -> list[Float[Tensor, "b _ _ _"]]:
        """Maps of the boxes at full and at half resolution, in the boxes' own frame."""
        # Its layer norms add up whole maps.
        with torch.autocast(boxes.values.device.type, enabled=False):
            maps = self.encoder(boxes)
        return [maps[stage] for stage in self._stages]
