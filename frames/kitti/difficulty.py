"""Easy, moderate, hard: which labelled objects KITTI's evaluation asks for, and Argoverse's."""

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from frames.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Difficulty:
    """Which labels count.

    Attributes:
        name: Easy, moderate, hard, or what else tells them apart.
        height: In the image, pixels: labels must be higher, detections not lower.
        occlusion: Highest level.
        truncation: Largest share outside the image.
        near: Depth of the centre along x, metres: labels must be beyond it, and of detections
            those that are not are ignored.
        far: The same, before it.
    """

    name: str
    height: float
    occlusion: int
    truncation: float
    near: float = -math.inf
    far: float = math.inf


# KITTI's object development kit, evaluate_object.cpp: MIN_HEIGHT, MAX_OCCLUSION, MAX_TRUNCATION.
KITTI_DIFFICULTIES = (
    Difficulty(name="easy", height=40, occlusion=0, truncation=0.15),
    Difficulty(name="moderate", height=25, occlusion=1, truncation=0.3),
    Difficulty(name="hard", height=25, occlusion=2, truncation=0.5),
)
# Argoverse's two schemes, evaluate/eval_old.py and evaluate/eval2.py (fv_dict, dist_boundary) of
# cxy1997/3D_adapt_auto_driving: vertical focal lengths, pixels, and (name, near, far), metres.
_KITTI_FOCAL, _ARGOVERSE_FOCAL = 707.05, 1870.57
_REACHES = (("easy", 0.0, 30.0), ("moderate", 0.0, 70.0), ("hard", 0.0, 70.0))
_BINS = (("0-30", 0.0, 30.0), ("30-50", 30.0, 50.0), ("50-70", 50.0, 70.0))


def rescaled_difficulties(focal: float) -> tuple[Difficulty, ...]:
    """KITTI's levels where the same object is higher or lower in the image.

    Args:
        focal: Vertical focal length of the left image, pixels.
    """
    return tuple(
        replace(level, height=level.height / _KITTI_FOCAL * focal) for level in KITTI_DIFFICULTIES
    )


# Scheme "old".
ARGOVERSE_HEIGHTS = rescaled_difficulties(_ARGOVERSE_FOCAL)
# Scheme "new": distance instead of height; the three bins as lenient as hard.
ARGOVERSE_DISTANCES = tuple(
    replace(level, name=name, height=-math.inf, near=near, far=far)
    for level, (name, near, far) in zip(
        (*KITTI_DIFFICULTIES, *KITTI_DIFFICULTIES[-1:] * len(_BINS)),
        (*_REACHES, *_BINS),
        strict=True,
    )
)


Scheme = Literal["kitti", "rescaled", "argoverse_heights", "argoverse_distances"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)


def difficulties(scheme: Scheme, focal: float | None = None) -> tuple[Difficulty, ...]:
    """The levels of a scheme.

    Args:
        scheme: KITTI's, KITTI's for another focal length, or one of Argoverse's two.
        focal: Vertical focal length of the left image, pixels; only ``rescaled`` reads it.

    Raises:
        DataError: ``rescaled`` without a focal length.
    """
    if scheme == "rescaled":
        if focal is None:
            raise DataError("difficulties rescaled: expected the focal length to rescale them to")
        return rescaled_difficulties(focal)
    known = {"kitti": KITTI_DIFFICULTIES, "argoverse_heights": ARGOVERSE_HEIGHTS}
    return {**known, "argoverse_distances": ARGOVERSE_DISTANCES}[scheme]
