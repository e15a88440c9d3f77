"""What ``benchmarks/gains.py`` compares: parts, each a world, teachers, students and arms."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from store.choices import Encoding
from student_train.config import StudentRun, Unlabelled

LABEL_ENCODER = "label_encoder"
# How many times an arm's steps the student has had that it starts from.
START_LENGTH = 4
ALL = 100  # percent


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
        labelled: Percent of the frames whose labels the student may see.
        teacher_labelled: The same of its teacher.
        unlabelled: What the student does with the others.
        own_store: How the name of a cache ends that holds what this arm alone reads, so that its
            costs are its own; "": it reads the one of all arms with its teacher.
        encoding: Of that cache's features; None: as the method wants them.
        started: Whether it starts from the same student, trained without a method before, on the
            same labels.
        length: How many times its TOML's steps it takes.
    """

    method: str
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    student: str = "student"
    teacher: str = "teacher"
    base: str = "none"
    embeds_labels: bool = False
    labelled: int = ALL
    teacher_labelled: int = ALL
    unlabelled: Unlabelled = "distil"
    own_store: str = ""
    encoding: Encoding | None = None
    started: bool = False
    length: int = 1

    @property
    def start(self) -> str | None:
        """Name of the run that it starts from; None: random weights."""
        few = f"_{self.labelled}" if self.labelled < ALL else ""
        return f"{self.student}_start{few}" if self.started else None

    @property
    def taught_by(self) -> str:
        """Name of its teacher's run."""
        few = self.teacher_labelled < ALL
        return f"{self.teacher}_{self.teacher_labelled}" if few else self.teacher

    @property
    def store(self) -> str | None:
        """Name of the cache it reads, of a teacher and a fraction of labels; None: it has none."""
        if self.method == "none" and self.unlabelled != "pseudo_labels":
            return None
        name = self.taught_by.replace("teacher", "store")
        name = f"{name}_for_{self.labelled}" if self.labelled < ALL else name
        return f"{name}_{self.own_store}" if self.own_store else name

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
        document["data"] |= few_labels(self.labelled)
        document["fit"]["steps"] *= self.length
        own = {"method": self.method, "unlabelled": self.unlabelled}
        return StudentRun.model_validate(document | own)


def made_first(arms: Iterable[Arm]) -> list[str]:
    """Names of the runs that these arms need: teachers, then what students start from."""
    arms = list(arms)
    teachers = {arm.taught_by for arm in arms}
    return [*sorted(teachers), *sorted({arm.start for arm in arms if arm.start})]


def few_labels(percent: int) -> dict[str, float]:
    """What a config's data say of it; nothing where all frames are labelled."""
    return {"labelled": percent / ALL} if percent < ALL else {}


@dataclass(frozen=True, slots=True)
class Part:
    """One comparison.

    Attributes:
        prefix: Of its TOMLs' names.
        arms: What can be asked for.
        usual: What is run unless something is asked for.
        world: Prefix of its world's TOML, where it shares another part's.
        home: Name of the part among whose runs and records its own lie; arms of one name are one.
    """

    prefix: str
    arms: Mapping[str, Arm]
    usual: tuple[str, ...]
    world: str
    home: str


def _part(home: str, prefix: str, arms: Mapping[str, Arm], left_out: tuple[str, ...] = ()) -> Part:
    usual = tuple(name for name in arms if name not in left_out)
    return Part(prefix, arms, usual, prefix.removesuffix("_uni"), home)


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
# Together as strong as the detection loss. The published weights are for long runs from ImageNet's
# weights; `published` shows what they do here.
_SHARES = {
    "feature": {"share": 0.4},
    "relation": {"share": 0.2},
    "response": {"share": 0.4},
}

_ADAPTED = {**_SHARES, "adapters": "conv1x1"}


def _but(term: str, terms: Iterable[str]) -> dict[str, Any]:
    """A method's other terms left out."""
    return dict.fromkeys(set(terms) - {term}, _NOTHING)


def _unidistill(
    teacher: str, student: str, weights: Mapping[str, Any] = _SHARES, only: str | None = None
) -> Arm:
    """A path, perhaps with one of its terms alone."""
    off = _but(only, _SHARES) if only else {}
    settings = {"path": f"{teacher}_to_{student}", **weights, **off}
    return Arm(
        method="unidistill",
        settings={"unidistill": settings},
        student=f"{student}_student",
        teacher=f"{teacher}_teacher",
        base=student,
        started=student == "camera",
    )


_UNIDISTILL = {
    "camera": Arm("none", student="camera_student", base="camera", started=True),
    "lidar": Arm("none", student="lidar_student", base="lidar"),
    "lidar_to_camera": _unidistill("lidar", "camera"),
    "fusion_to_camera": _unidistill("fusion", "camera"),
    "camera_to_lidar": _unidistill("camera", "lidar"),
    "fusion_to_lidar": _unidistill("fusion", "lidar"),
    "published": _unidistill("lidar", "camera", {}),
    "feature": _unidistill("lidar", "camera", only="feature"),
    "relation": _unidistill("lidar", "camera", only="relation"),
    "response": _unidistill("lidar", "camera", only="response"),
    # A student that is already trained has channels of its own; an adapter leaves it these.
    "lidar_to_camera_adapted": _unidistill("lidar", "camera", _ADAPTED),
    "fusion_to_camera_adapted": _unidistill("fusion", "camera", _ADAPTED),
    "feature_adapted": _unidistill("lidar", "camera", _ADAPTED, only="feature"),
}


def _history(method: str, **settings: Mapping[str, Any]) -> Arm:
    label = settings.get("labeldistill", {}).get("label")
    embeds = "labeldistill" in method and label != _NOTHING
    return Arm(method, settings, "history_student", embeds_labels=embeds, started=True)


def _labeldistill(*without: str) -> Arm:
    return _history("labeldistill", labeldistill=dict.fromkeys(without, _NOTHING))


_SIMDISTILL_TERMS = ("imd", "cmd", "mmd_f", "mmd_p")
_SIMDISTILL_SHARES: dict[str, Any] = {
    "map_adapter": "conv1x1",
    "mmd_f": {"share": 0.3},
    "mmd_p": {"share": 0.3},
}
_SMALLER = (Encoding.BFLOAT16, Encoding.UINT8)
# CMD's 100 is for a mean over 32,400 cells, of which about 30 boxes cover few; here Gaussians cover
# a fifth of them, and their mean square is 0.022 against an estimated 0.002.
_SIMDISTILL_HERE = {"cmd": {"weight": 10.0}}


def _simdistill(method: str, own_store: str = "", **settings: Any) -> Arm:
    own = {"simdistill": {**_SIMDISTILL_HERE, **settings}} if method == "simdistill" else {}
    whose = "sim_student", "sim_teacher", "sim_none"
    return Arm(method, own, *whose, own_store=own_store, started=True)


def _encoded(encoding: Encoding) -> Arm:
    return replace(_simdistill("simdistill", str(encoding)), encoding=encoding)


def _from_scratch(arm: Arm) -> Arm:
    """With the method from the first step on, as many as the start's."""
    return replace(arm, base="sim_none_scratch", started=False, length=START_LENGTH)


def _unidistill_term(term: str) -> Arm:
    return _history("unidistill", unidistill={**_ADAPTED, **_but(term, _SHARES)})


def _simdistill_term(term: str) -> Arm:
    return _simdistill("simdistill", **_but(term, _SIMDISTILL_TERMS))


# At twice as many rows as the teacher's map has channels.
_STXD_HERE = {"random_cells": 144}
_STXD_TERMS = ("cd", "td", "rd")


def _stxd_term(term: str) -> Arm:
    return _history("stxd", stxd={**_STXD_HERE, **_but(term, _STXD_TERMS)})


# One student for all methods on centre heads, so that their scores can be compared; SimDistill's is
# part of the method, and has a control of its own.
_METHODS = {
    "none": _history("none"),
    "imitation": _history("imitation"),
    "xgd": _history("xgd"),
    "unidistill": _history("unidistill", unidistill=_ADAPTED),
    "labeldistill": _history("labeldistill"),
    "stxd": _history("stxd", stxd=_STXD_HERE),
    "sim_none": _simdistill("none"),
    # Whether this student learns from this teacher at all.
    "sim_imitation": _simdistill("imitation", own_store="imitation"),
    "simdistill": _simdistill("simdistill"),
    # As with UniDistill: the student that it starts from has channels of its own.
    "sim_adapted": _simdistill("simdistill", map_adapter="conv1x1"),
    # With imitation's shares on the fused map.
    "sim_shares": _simdistill("simdistill", **_SIMDISTILL_SHARES),
    "sim_none_scratch": _from_scratch(_simdistill("none")),
    "sim_scratch": _from_scratch(_simdistill("simdistill")),
    "sim_foreground": _simdistill("simdistill", own_store="foreground", at="foreground"),
    **{f"sim_{term}": _simdistill_term(term) for term in _SIMDISTILL_TERMS},
    **{f"sim_{encoding}": _encoded(encoding) for encoding in _SMALLER},
    "xgd+imitation": _history("xgd+imitation"),
    "xgd+unidistill": _history("xgd+unidistill", unidistill=_ADAPTED),
    "labeldistill+stxd": _history("labeldistill+stxd", stxd=_STXD_HERE),
    "lidar_features": _labeldistill("label", "heatmap", "box"),
    "label_features": _labeldistill("lidar", "heatmap", "box"),
    "label_response": _labeldistill("lidar", "label"),
    **{f"uni_{term}": _unidistill_term(term) for term in _SHARES},
    **{f"stxd_{term}": _stxd_term(term) for term in _STXD_TERMS},
}
# Each a question of its own, run when asked for.
_ASIDE = (
    *(f"sim_{name}" for name in (*_SIMDISTILL_TERMS, *_SMALLER, "none_scratch", "scratch")),
    *(f"stxd_{term}" for term in _STXD_TERMS),
)


def _few_labels(percent: int) -> dict[str, Arm]:
    """Arms of one fraction.

    ``only``: trained on the labelled frames alone, as many steps. ``all``: the teacher has seen
    all labels. ``pseudo``: the teacher's detections are labels where there are none.
    """
    none = replace(_METHODS["none"], base=f"none_{percent}", labelled=percent)
    taught = replace(none, teacher_labelled=percent)
    pseudo = replace(taught, unlabelled="pseudo_labels")
    return {
        none.base: none,
        f"only_{percent}": replace(none, unlabelled="leave_out"),
        f"imitation_{percent}": replace(taught, method="imitation"),
        f"imitation_{percent}_all": replace(none, method="imitation"),
        f"pseudo_{percent}": pseudo,
        f"imitation+pseudo_{percent}": replace(pseudo, method="imitation"),
    }


# The student of `methods`, whose arms with all labels are the first row.
_FEW_LABELS = {
    "none": _METHODS["none"],
    "imitation": _METHODS["imitation"],
    **_few_labels(50),
    **_few_labels(25),
    **_few_labels(10),
}
_PSEUDO = tuple(name for name in _FEW_LABELS if "pseudo" in name)

PARTS = {
    "nuscenes": _part("nuscenes", "gain", _NUSCENES, _GATES),
    "kitti": _part("kitti", "gain_kitti", _KITTI, _GATES),
    "unidistill": _part("unidistill", "gain_uni", _UNIDISTILL),
    "methods": _part("methods", "gain", _METHODS, _ASIDE),
    "few_labels": _part("methods", "gain", _FEW_LABELS, _PSEUDO),
}


def arms_at(home: str) -> list[Arm]:
    """Those of all parts that share a home, and so their caches."""
    return [arm for part in PARTS.values() if part.home == home for arm in part.arms.values()]
