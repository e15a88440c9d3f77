"""A teacher's training run: one TOML."""

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from frames.augment import BevAugmentConfig
from frames.dataset import DatasetConfig, check_classes
from frames.image_augment import ImageAugmentConfig
from frames.sensor_input import Modality, SensorReader
from nets.bev_detector import BEVDetectorConfig
from nets.bevfusion import BEVFusionConfig
from nets.centerpoint import CenterPointConfig
from runs.config import RunConfig
from runs.fit import FitConfig
from store.fingerprint import TeacherIdentity
from teacher_dump.second_teacher_config import SecondTeacherConfig


def _network(values: Any) -> Any:
    """What the config says it is; CenterPoint where it says nothing, as the first runs did."""
    if isinstance(values, dict):
        return values.get("network", "centerpoint")
    return getattr(values, "network", None)


class TeacherRun(RunConfig):
    """Everything a teacher's run is made of; stored in its checkpoint.

    Attributes:
        name: Short name of the teacher.
        data: Frames to train on.
        teacher: The network.
        kind: Modality, as the network has it; a TOML that gives it is held to it.
        augment: BEV augmentation of points, cameras and boxes in training.
        image_augment: Augmentation of each image, where the network sees images.
        fit: Length and pace.
    """

    name: str
    data: DatasetConfig
    teacher: Annotated[
        Annotated[CenterPointConfig, Tag("centerpoint")]
        | Annotated[SecondTeacherConfig, Tag("second")]
        | Annotated[BEVDetectorConfig, Tag("unidistill")]
        | Annotated[BEVFusionConfig, Tag("bevfusion")],
        Discriminator(_network),
    ]
    kind: Modality = Field(None, validate_default=True)
    augment: BevAugmentConfig = BevAugmentConfig(
        # Half of CenterPoint's published turn, its scale and flips.
        rotation=0.39,
        scale=(0.95, 1.05),
        flip_x=0.5,
        flip_y=0.5,
    )
    image_augment: ImageAugmentConfig | None = None
    fit: FitConfig

    @field_validator("kind", mode="before")
    @classmethod
    def _of_the_network(cls, kind: Any, info: Any) -> Any:
        """What the network sees, unless the TOML says otherwise."""
        teacher = info.data.get("teacher")
        # Of a network that does not fit nothing is known; its own errors are told.
        own = getattr(teacher, "kind", "lidar")
        if kind not in (None, own):
            raise ValueError(
                f"the network sees {own}, not {kind}: change teacher.lidar and teacher.camera, or "
                "leave kind out"
            )
        return own

    @model_validator(mode="after")
    def _fits_together(self) -> "TeacherRun":
        check_classes(self.teacher.classes, self.data)
        if (self.kind == "lidar") != (self.image_augment is None):
            raise ValueError(
                "image_augment: a network that sees images needs it, one of LiDAR alone has none"
            )
        if self.image_augment and isinstance(self.teacher, BEVDetectorConfig | BEVFusionConfig):
            assert self.teacher.image is not None, "it sees images"
            self.teacher.image.check_size("image_augment.out_size", self.image_augment.out_size)
        return self

    def identity(self, checkpoint_sha256: str) -> TeacherIdentity:
        """Who the teacher is that this run has left as a checkpoint."""
        return TeacherIdentity(
            name=self.name,
            kind=self.kind,
            checkpoint_sha256=checkpoint_sha256,
            config=self.teacher.model_dump(mode="json"),
        )

    @property
    def reader(self) -> SensorReader:
        """What reads its frames."""
        taught = None
        if isinstance(self.teacher, BEVDetectorConfig | BEVFusionConfig):
            taught = self.teacher.depth_stride
        return SensorReader(
            kind=self.kind,
            cameras=self.data.cameras,
            image_augment=self.image_augment,
            depth_stride=taught,
        )
