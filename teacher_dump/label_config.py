"""A label encoder's training run: one TOML."""

from pydantic import model_validator

from frames.augment import BevAugmentConfig
from frames.dataset import DatasetConfig, check_classes
from frames.detection_classes import DETECTION_CLASSES
from nets.center_loss import CenterLossConfig
from nets.centerpoint import CenterPointConfig
from nets.label_encoder import LabelEncoderConfig
from runs.config import RunConfig
from runs.errors import ConfigError
from runs.fit import FitConfig
from store.differences import differences


class LabelEncoderRun(RunConfig):
    """Everything such a run is made of but the teacher; stored in its checkpoint.

    Attributes:
        name: Short name of the encoder.
        data: Frames whose boxes to train on; no other file of them is read.
        encoder: The network.
        loss: Weights of the detection loss; None: those that the teacher was trained with.
        augment: BEV augmentation of the boxes.
        fit: Length and pace.
    """

    name: str
    data: DatasetConfig
    encoder: LabelEncoderConfig
    loss: CenterLossConfig | None = None
    augment: BevAugmentConfig = BevAugmentConfig(
        # BEVDepth's bda_aug_conf, with which LabelDistill trains its encoder: 22.5 degrees.
        rotation=0.3927,
        scale=(0.95, 1.05),
        flip_x=0.5,
        flip_y=0.5,
    )
    fit: FitConfig

    @model_validator(mode="after")
    def _same_classes(self) -> "LabelEncoderRun":
        check_classes(DETECTION_CLASSES, self.data)
        return self


def require_fit(encoder: LabelEncoderConfig, teacher: CenterPointConfig) -> None:
    """Refuse an encoder whose maps are not the teacher's.

    Raises:
        ConfigError: Grid, stages or tasks differ; lists all differences.
    """
    own = encoder.model_copy(
        update={
            "grid": teacher.grid,
            "channels": teacher.backbone.channels,
            "strides": teacher.backbone.total_strides,
            "class_order": tuple(name for task in teacher.head.tasks for name in task),
        }
    )
    found, expected = encoder.model_dump(mode="json"), own.model_dump(mode="json")
    if lines := list(differences(found, expected, "encoder")):
        raise ConfigError(
            f"the label encoder does not fit the teacher ({'; '.join(lines)}): its grid, channels, "
            "strides and class_order are those of the teacher's grid, backbone and tasks"
        )
