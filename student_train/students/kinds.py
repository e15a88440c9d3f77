"""The kinds of students: config, reader and network of each, chosen by ``network``."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from frames.image_augment import ImageAugmentConfig
from frames.sensor_input import Modality, SensorReader
from nets.center_head import CenterHeadConfig
from nets.center_loss import CenterLossConfig
from nets.image_backbone import ImageBackboneConfig
from runs.errors import ConfigError
from student_train.students.base import Reader, Student
from student_train.students.bev import BEVStudent, BEVStudentConfig, SimulatedStudentConfig
from student_train.students.camera import CameraStudent, CameraStudentConfig
from student_train.students.stereo import StereoStudent, StereoStudentConfig
from student_train.students.stereo_input import StereoReader


def _network(values: Any) -> Any:
    """What the config says it is; BEVDepth where it says nothing, as the first runs did."""
    if isinstance(values, dict):
        return values.get("network", "bevdepth")
    return getattr(values, "network", None)


AnyStudentConfig = (
    CameraStudentConfig | StereoStudentConfig | BEVStudentConfig | SimulatedStudentConfig
)
StudentConfig = Annotated[
    Annotated[CameraStudentConfig, Tag("bevdepth")]
    | Annotated[StereoStudentConfig, Tag("liga")]
    | Annotated[BEVStudentConfig, Tag("unidistill")]
    | Annotated[SimulatedStudentConfig, Tag("simulated_fusion")],
    Discriminator(_network),
]


def build_student(config: AnyStudentConfig) -> Student:
    """The network, with fresh weights."""
    if isinstance(config, StereoStudentConfig):
        return StereoStudent(config)
    if isinstance(config, BEVStudentConfig | SimulatedStudentConfig):
        return BEVStudent(config)
    return CameraStudent(config)


def sees(config: AnyStudentConfig) -> Modality:
    """What the network looks at."""
    return config.kind if isinstance(config, BEVStudentConfig) else "camera"


def center_head(config: AnyStudentConfig) -> CenterHeadConfig | None:
    """Its centre head, if it has one."""
    return None if isinstance(config, StereoStudentConfig) else config.head


def code_weights(config: AnyStudentConfig) -> tuple[float, ...]:
    """Of each entry of the box code in its detection loss, of a centre head; else the default."""
    if isinstance(config, StereoStudentConfig):
        return CenterLossConfig().code
    return config.loss.code


def teaches_depth(config: AnyStudentConfig) -> bool:
    """Whether LiDAR depth supervises it in training."""
    if isinstance(config, BEVStudentConfig):
        return config.depth_stride is not None
    return config.depth_loss_weight > 0


def image_backbone(config: AnyStudentConfig) -> ImageBackboneConfig | None:
    """What its images go into, where they are augmented one by one; a stereo pair is not."""
    return None if isinstance(config, StereoStudentConfig) else config.image


def build_reader(
    config: AnyStudentConfig, cameras: Sequence[str], image_augment: ImageAugmentConfig | None
) -> Reader:
    """What reads frames for the network.

    Args:
        config: Of the network.
        cameras: That the data are asked for.
        image_augment: Of each image, where they are augmented.

    Raises:
        ConfigError: The images are not of the size that the network is made for.
    """
    if isinstance(config, SimulatedStudentConfig):
        _check_size(config, image_augment)
    if isinstance(config, StereoStudentConfig):
        with_depth = config.depth_loss_weight > 0
        return StereoReader(config.image_size, config.image_scale, with_depth=with_depth)
    return SensorReader(
        kind=sees(config),
        cameras=cameras,
        image_augment=image_augment,
        depth_stride=config.depth_stride,
        past=config.past if isinstance(config, CameraStudentConfig) else (),
    )


def _check_size(config: SimulatedStudentConfig, image_augment: ImageAugmentConfig | None) -> None:
    if image_augment is not None and image_augment.out_size != config.image_size:
        raise ConfigError(
            f"image_augment.out_size is {image_augment.out_size}, student.image_size "
            f"{config.image_size}: the network learns positions in the image, so make them equal"
        )
