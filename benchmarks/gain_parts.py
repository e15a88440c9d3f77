"""What ``benchmarks/gains.py`` compares: parts, each a world, teachers, students and arms."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from student_train.config import StudentRun

LABEL_ENCODER = "label_encoder"


@dataclass(frozen=True, slots=True)
class Arm:
    """A student, a method, and what of the method's config is not the default.

    Attributes:
        method: As ``--method`` takes it.
        settings: The table of each method that is not empty.
        student: Its TOML's name after the part's prefix.
        teacher: Likewise; whose cache is read.
        base: The arm it is compared with: the same student without a method.
        embeds_labels: Whether LabelDistill's label features are computed in the step.
    """

    method: str
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    student: str = "student"
    teacher: str = "teacher"
    base: str = "none"
    embeds_labels: bool = False

    def of(self, run: StudentRun, out: Path) -> StudentRun:
        """The run of this arm.

        Args:
            run: Of its student.
            out: Where the part's label encoder lies.
        """
        document = run.model_dump(mode="json")
        for name, values in self.settings.items():
            document["methods"][name] = dict(values)
        if self.embeds_labels:
            encoder = str(out / LABEL_ENCODER / "label_encoder.pt")
            document["methods"]["labeldistill"] |= {
                "labels": "ground_truth",
                "label_encoder": encoder,
            }
        return StudentRun.model_validate(document | {"method": self.method})


@dataclass(frozen=True, slots=True)
class Part:
    """One comparison.

    Attributes:
        prefix: Of its TOMLs' names.
        arms: What can be asked for.
        usual: What is run unless something is asked for.
        world: Prefix of its world's TOML, where it shares another part's.
    """

    prefix: str
    arms: Mapping[str, Arm]
    usual: tuple[str, ...]
    world: str


def _part(prefix: str, arms: Mapping[str, Arm], left_out: tuple[str, ...] = ()) -> Part:
    usual = tuple(name for name in arms if name not in left_out)
    return Part(prefix, arms, usual, prefix.removesuffix("_uni"))


_GATES = ("no_gate", "closer")
_NUSCENES = {
    "none": Arm("none"),
    "imitation": Arm("imitation"),
    "xgd": Arm("xgd"),
    "xgd+imitation": Arm("xgd+imitation"),
    "no_gate": Arm("xgd", {"xgd": {"gate": "none"}}),
    "closer": Arm("xgd", {"xgd": {"gate": "closer"}}),
}

# The filter that StereoDistill argues against: a whole box is good enough, or it is not used.
_WHOLE_BOX = {"gate": "none", "min_iou": (0.7, 0.5, 0.5), "min_score": 0.3}
# CLD's term held at a share of the detection loss's gradient: that of XGD's at its own weight.
_BALANCED = {"logit": {"weight": 1.0, "share": 0.15}}
_KITTI = {
    "none": Arm("none"),
    "xgd": Arm("xgd"),
    "whole_box": Arm("xgd", {"xgd": _WHOLE_BOX}),
    "stereodistill_share": Arm("stereodistill", {"cld": _BALANCED}),
    "cld_share": Arm("cld", {"cld": _BALANCED}),
    "response": Arm("response"),
    "stereodistill": Arm("stereodistill"),
    "cld": Arm("cld"),
    "no_gate": Arm("xgd", {"xgd": {"gate": "none"}}),
    "closer": Arm("xgd", {"xgd": {"gate": "closer"}}),
}

_NOTHING = {"weight": 0.0}


def _unidistill(teacher: str, student: str, *without: str) -> Arm:
    """A path, perhaps without some of its terms."""
    settings = {"path": f"{teacher}_to_{student}", **dict.fromkeys(without, _NOTHING)}
    return Arm(
        "unidistill", {"unidistill": settings}, f"{student}_student", f"{teacher}_teacher", student
    )


_UNIDISTILL = {
    "camera": Arm("none", student="camera_student"),
    "lidar": Arm("none", student="lidar_student"),
    "lidar_to_camera": _unidistill("lidar", "camera"),
    "fusion_to_camera": _unidistill("fusion", "camera"),
    "camera_to_lidar": _unidistill("camera", "lidar"),
    "fusion_to_lidar": _unidistill("fusion", "lidar"),
    "feature": _unidistill("lidar", "camera", "relation", "response"),
    "relation": _unidistill("lidar", "camera", "feature", "response"),
    "response": _unidistill("lidar", "camera", "feature", "relation"),
}


def _labeldistill(*without: str) -> Arm:
    settings = dict.fromkeys(without, _NOTHING)
    embeds = "label" not in without
    return Arm(
        "labeldistill",
        {"labeldistill": settings},
        "labeldistill_student",
        embeds_labels=embeds,
    )


_LABELDISTILL = {
    "none": Arm("none", student="labeldistill_student"),
    "labeldistill": _labeldistill(),
    "lidar_features": _labeldistill("label", "heatmap", "box"),
    "label_features": _labeldistill("lidar", "heatmap", "box"),
    "response": _labeldistill("lidar", "label"),
}


def _simdistill(**settings: Any) -> Arm:
    return Arm("simdistill", {"simdistill": settings})


_SIMDISTILL = {
    "none": Arm("none"),
    "simdistill": _simdistill(),
    "foreground": _simdistill(at="foreground"),
    "imd": _simdistill(cmd=_NOTHING, mmd_f=_NOTHING, mmd_p=_NOTHING),
    "cmd": _simdistill(imd=_NOTHING, mmd_f=_NOTHING, mmd_p=_NOTHING),
    "mmd_f": _simdistill(imd=_NOTHING, cmd=_NOTHING, mmd_p=_NOTHING),
    "mmd_p": _simdistill(imd=_NOTHING, cmd=_NOTHING, mmd_f=_NOTHING),
}

PARTS = {
    "nuscenes": _part("gain", _NUSCENES, _GATES),
    "kitti": _part("gain_kitti", _KITTI, _GATES),
    "unidistill": _part("gain_uni", _UNIDISTILL),
    "labeldistill": _part("gain", _LABELDISTILL),
    "simdistill": Part("gain_sim", _SIMDISTILL, tuple(_SIMDISTILL), "gain"),
}
