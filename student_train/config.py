"""A student's training run: one TOML."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    create_model,
    field_validator,
    model_validator,
)

from frames.augment import BevAugmentConfig
from frames.dataset import DatasetConfig, check_classes
from frames.image_augment import ImageAugmentConfig
from frames.sensor_input import Modality
from runs.config import RunConfig
from runs.errors import ConfigError
from runs.fit import FitConfig
from student_train.methods import METHODS
from student_train.methods.base import Method, MethodConfig
from student_train.registry import Head, named_methods, parse_methods
from student_train.students.base import Reader
from student_train.students.kinds import (
    AnyStudentConfig,
    StudentConfig,
    build_reader,
    image_backbone,
    sees,
)
from student_train.students.stereo import StereoStudentConfig

Unlabelled = Literal["distil", "pseudo_labels", "leave_out"]


class MethodTables(BaseModel):
    """A table for each method of a head; those that ``--method`` does not name are not used.

    Attributes:
        head: Whose maps the methods read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    head: Head


def _tables(head: Head) -> type[MethodTables]:
    """The same with the head's methods."""
    types = {name: method.config_type for name, method in METHODS[head].items()}
    fields: dict[str, Any] = {name: (kind, kind()) for name, kind in types.items()}
    fields["head"] = (Literal[head], head)
    name = f"{head.capitalize()}Methods"
    return create_model(name, __base__=MethodTables, __module__=__name__, **fields)


# Module attributes, so that loader processes can be sent them.
CenterMethods, AnchorMethods = _tables("center"), _tables("anchor")


if TYPE_CHECKING:
    AnyMethods = MethodTables
else:
    AnyMethods = Annotated[CenterMethods | AnchorMethods, Discriminator("head")]


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


class StudentRun(RunConfig):
    """Everything a student's run is made of; stored in its checkpoint, but for unused tables.

    Attributes:
        name: Short name of the student.
        data: Frames to train on.
        unlabelled: What frames are for whose labels are hidden (``data.labelled``): the methods'
            terms and LiDAR depth alone; the detection loss too, against the teacher's detections
            in the cache; or nothing.
        student: The network.
        image_augment: Augmentation of each image; a multi-camera student's alone.
        bev_augment: Augmentation of the BEV frame: cameras, boxes and cached targets together.
        fit: Length and pace.
        method: Names of the methods, joined with ``+``, or ``none``.
        methods: Their configs, by name; those of the methods for the student's head.
        balance: Gradient shares.
    """

    name: str
    data: DatasetConfig
    unlabelled: Unlabelled = "distil"
    student: StudentConfig
    image_augment: ImageAugmentConfig | None = None
    bev_augment: BevAugmentConfig = BevAugmentConfig()
    fit: FitConfig
    method: str = "none"
    methods: AnyMethods = Field(default_factory=dict, validate_default=True)
    balance: BalanceConfig = BalanceConfig()

    @field_validator("methods", mode="before")
    @classmethod
    def _of_its_head(cls, tables: Any, info: Any) -> Any:
        """Says for which head the tables are, unless they do."""
        student = info.data.get("student")
        if not isinstance(tables, dict):
            return tables
        if student is None:
            # Of a student that does not fit nothing is known; its own errors are told.
            return {"head": "center"}
        return {"head": _head(student)} | tables

    @model_validator(mode="after")
    def _fits_together(self) -> "StudentRun":
        check_classes(self.student.classes, self.data)
        if self.methods.head != _head(self.student):
            raise ValueError(f"methods are those of the head {self.methods.head!r}")
        stereo = isinstance(self.student, StereoStudentConfig)
        if stereo and self.bev_augment != BevAugmentConfig(flip_y=self.bev_augment.flip_y):
            raise ValueError("bev_augment: a stereo student is mirrored alone: set flip_y only")
        if self.unlabelled != "distil" and self.data.labelled == 1:
            raise ValueError(
                f"unlabelled = {self.unlabelled!r}, but every frame is labelled: set data.labelled "
                "below 1, or leave unlabelled out"
            )
        if self.fit.class_balanced and self.data.labelled < 1 and self.unlabelled != "leave_out":
            raise ValueError(
                "fit.class_balanced draws frames by their labels, so those whose labels are hidden "
                'by data.labelled would never be seen: set unlabelled = "leave_out", or leave '
                "class_balanced out"
            )
        hidden = self.data.labelled < 1 and self.unlabelled == "distil"
        if isinstance(self.student, StereoStudentConfig) and self.student.image_head and hidden:
            raise ValueError(
                "student.image_head is taught by labels, which frames beyond data.labelled lack: "
                'leave it out, or set unlabelled to "pseudo_labels" or "leave_out"'
            )
        if stereo and not self.student.grid.symmetric_y:
            raise ValueError(
                f"a flip maps {self.student.grid} onto itself only if it is symmetric in y"
            )
        return self

    @model_validator(mode="after")
    def _images_fit(self) -> "StudentRun":
        images = image_backbone(self.student)
        if (images is None) != (self.image_augment is None):
            raise ValueError(
                "image_augment: a multi-camera student needs it, a stereo student has none (its "
                "images are cut to student.image_size), nor has one that sees points alone"
            )
        if images and self.image_augment:
            images.check_size("image_augment.out_size", self.image_augment.out_size)
        return self

    @classmethod
    def own(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Without the tables of methods that it does not train with."""
        tables = values.get("methods")
        if not isinstance(tables, dict):
            return values
        used = {"head", *named_methods(str(values.get("method", "none")))}
        return values | {"methods": {name: tables[name] for name in tables if name in used}}

    @property
    def reads_cache(self) -> bool:
        """Whether it is trained from a teacher's cache."""
        return bool(self.method_configs) or self.unlabelled == "pseudo_labels"

    @property
    def known_methods(self) -> tuple[str, ...]:
        """Those for its head."""
        return tuple(METHODS[_head(self.student)])

    @property
    def method_configs(self) -> dict[str, MethodConfig]:
        """The config of every method that is trained with.

        Raises:
            ConfigError: A method reads another head than the student's, or maps that it lacks, or
                would teach nothing.
        """
        head = _head(self.student)
        names = parse_methods(self.method)
        if foreign := [name for name in names if name not in METHODS[head]]:
            raise ConfigError(
                f"method {foreign[0]} does not read the {head} head of student "
                f"{self.student.network}; those that do: {', '.join(METHODS[head])}"
            )
        configs: dict[str, MethodConfig] = {name: getattr(self.methods, name) for name in names}
        for name, config in configs.items():
            _require_pull(name, config)
            wanted = METHODS[head][name].student_maps(config)
            if lacking := sorted(map(str, wanted - self.student.channels.keys())):
                raise ConfigError(
                    f"method {name} reads the student's {' and '.join(lacking)}, which "
                    f'{self.student.network} does not have: set network = "simulated_fusion"'
                )
        return configs

    @property
    def method_types(self) -> dict[str, type[Method]]:
        """The class of every method that is trained with."""
        return {name: METHODS[_head(self.student)][name] for name in self.method_configs}

    @property
    def kind(self) -> Modality:
        """What its student sees."""
        return sees(self.student)

    @property
    def reader(self) -> Reader:
        """What reads its frames."""
        return build_reader(self.student, self.data.cameras, self.image_augment)


def _require_pull(name: str, config: MethodConfig) -> None:
    """Refuse a method that would train as none.

    Raises:
        ConfigError: No term counts, or one would be held at a share of nothing.
    """
    for term, strength in config.strengths.items():
        if term in config.terms and strength.share and not strength.weight:
            raise ConfigError(
                f"{term} of method {name} has share = {strength.share} and weight = 0, and what is "
                f"multiplied by 0 can be held at no share: leave its weight out in [methods.{name}]"
            )
    if not config.terms:
        weights = ", ".join(f"{term} {value.weight:g}" for term, value in config.strengths.items())
        raise ConfigError(
            f"no term of method {name} counts, so it would train as none (weights: {weights}; "
            "those that another switch leaves out do not count): "
            f"give one a weight or a share in [methods.{name}], or leave it out (--method none)"
        )


def _head(student: AnyStudentConfig) -> Head:
    return "center" if student.anchors is None else "anchor"
