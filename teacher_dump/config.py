"""A teacher's training run: one TOML."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Tag, model_validator

from frames.augment import BevAugmentConfig
from frames.dataset import DatasetConfig, check_classes
from runs.fit import FitConfig
from teacher_dump.centerpoint import CenterPointConfig
from teacher_dump.second_config import SecondTeacherConfig


def _network(values: Any) -> Any:
    """What the config says it is; CenterPoint where it says nothing, as the first runs did."""
    if isinstance(values, dict):
        return values.get("network", "centerpoint")
    return getattr(values, "network", None)


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
    teacher: Annotated[
        Annotated[CenterPointConfig, Tag("centerpoint")]
        | Annotated[SecondTeacherConfig, Tag("second")],
        Discriminator(_network),
    ]
    augment: BevAugmentConfig = BevAugmentConfig(
        # Half of CenterPoint's published turn, its scale and flips.
        rotation=0.39,
        scale=(0.95, 1.05),
        flip_x=0.5,
        flip_y=0.5,
    )
    fit: FitConfig

    @model_validator(mode="after")
    def _same_classes(self) -> "TeacherRun":
        check_classes(self.teacher.classes, self.data)
        return self
