"""A teacher's training run: one TOML."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from frames.augment import BevAugmentConfig
from frames.dataset import DatasetConfig
from runs.fit import FitConfig
from teacher_dump.centerpoint import CenterPointConfig


class TeacherRun(BaseModel):
    """Everything a teacher's run is made of; stored in its checkpoint.

    Attributes:
        name: Short name of the teacher.
        kind: Modality.
        data: Frames to train on.
        teacher: The network.
        augment: BEV augmentation of points and boxes in training.
        fit: Length and pace.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Literal["lidar"] = "lidar"
    data: DatasetConfig
    teacher: CenterPointConfig
    augment: BevAugmentConfig = BevAugmentConfig(
        # Half of CenterPoint's published turn, its scale and flips.
        rotation=0.39,
        scale=(0.95, 1.05),
        flip_x=0.5,
        flip_y=0.5,
    )
    fit: FitConfig
