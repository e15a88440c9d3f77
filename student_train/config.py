"""A student's training run: one TOML."""

from pydantic import BaseModel, ConfigDict, Field, create_model

from frames.augment import BevAugmentConfig
from frames.dataset import DatasetConfig
from frames.image_augment import ImageAugmentConfig
from runs.fit import FitConfig
from student_train.methods import METHODS
from student_train.methods.base import MethodConfig
from student_train.registry import parse_methods
from student_train.student import StudentConfig

# A table for each method of the registry; those that ``--method`` does not name are not used.
MethodTables = create_model(
    "MethodTables",
    __config__=ConfigDict(frozen=True, extra="forbid"),
    **{name: (method.config_type, method.config_type()) for name, method in METHODS.items()},  # type: ignore[call-overload]
)


class BalanceConfig(BaseModel):
    """How terms are held at their wanted share of the gradient.

    Attributes:
        every: Steps between measurements; each costs a backward pass per term through the head
            and the BEV backbone. Shares are logged whether or not a term has a wanted one.
        momentum: How much of the last estimate of a share is kept at each measurement.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    every: int = Field(50, ge=1)
    momentum: float = Field(0.7, ge=0, lt=1)


class StudentRun(BaseModel):
    """Everything a student's run is made of; stored in its checkpoint.

    Attributes:
        name: Short name of the student.
        data: Frames to train on.
        student: The network.
        image_augment: Augmentation of each image.
        bev_augment: Augmentation of the BEV frame: cameras, boxes and cached targets together.
        fit: Length and pace.
        method: Names of the methods, joined with ``+``, or ``none``.
        methods: Their configs.
        balance: Gradient shares.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    data: DatasetConfig
    student: StudentConfig
    image_augment: ImageAugmentConfig
    bev_augment: BevAugmentConfig = BevAugmentConfig()
    fit: FitConfig
    method: str = "none"
    methods: MethodTables = MethodTables()
    balance: BalanceConfig = BalanceConfig()

    @property
    def method_configs(self) -> dict[str, MethodConfig]:
        """The config of every method that is trained with."""
        return {name: getattr(self.methods, name) for name in parse_methods(self.method)}
