"""Easy, moderate, hard: which labelled objects KITTI's evaluation asks for."""

from dataclasses import dataclass
from enum import IntEnum

from frames.kitti.labels import DONT_CARE, KittiObject


class Difficulty(IntEnum):
    """KITTI's three levels; an easy object is moderate and hard too."""

    EASY = 0
    MODERATE = 1
    HARD = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an object may be at most, or at least, to count at a level.

    Attributes:
        height: Of the 2D box, pixels; it must be greater.
        occlusion: The highest level that counts.
        truncation: The largest share outside the image that counts.
    """

    height: float
    occlusion: int
    truncation: float


# KITTI's object development kit, evaluate_object.cpp: MIN_HEIGHT, MAX_OCCLUSION, MAX_TRUNCATION.
LIMITS = {
    Difficulty.EASY: Limits(height=40, occlusion=0, truncation=0.15),
    Difficulty.MODERATE: Limits(height=25, occlusion=1, truncation=0.30),
    Difficulty.HARD: Limits(height=25, occlusion=2, truncation=0.50),
}


def difficulty(thing: KittiObject) -> Difficulty | None:
    """The lowest level at which an object counts; None if at none, and for DontCare."""
    if thing.kind == DONT_CARE:
        return None
    return next((level for level in Difficulty if _counts(thing, LIMITS[level])), None)


def _counts(thing: KittiObject, limits: Limits) -> bool:
    return (
        thing.bbox[3] - thing.bbox[1] > limits.height
        and thing.occlusion <= limits.occlusion
        and thing.truncation <= limits.truncation
    )
