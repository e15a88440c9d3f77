"""Easy, moderate, hard: which labelled objects KITTI's evaluation asks for."""

from dataclasses import dataclass

from frames.kitti.labels import DONT_CARE, KittiObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Difficulty:
    """Which labels count.

    Attributes:
        name: Easy, moderate or hard.
        height: In the image, pixels: labels must be higher, detections not lower.
        occlusion: Highest level.
        truncation: Largest share outside the image.
    """

    name: str
    height: float
    occlusion: int
    truncation: float


# KITTI's object development kit, evaluate_object.cpp: MIN_HEIGHT, MAX_OCCLUSION, MAX_TRUNCATION.
KITTI_DIFFICULTIES = (
    Difficulty(name="easy", height=40, occlusion=0, truncation=0.15),
    Difficulty(name="moderate", height=25, occlusion=1, truncation=0.3),
    Difficulty(name="hard", height=25, occlusion=2, truncation=0.5),
)


def difficulty(thing: KittiObject) -> str | None:
    """Name of the first level at which an object counts; None if at none, and for DontCare."""
    if thing.kind == DONT_CARE:
        return None
    return next((level.name for level in KITTI_DIFFICULTIES if _counts(thing, level)), None)


def _counts(thing: KittiObject, level: Difficulty) -> bool:
    return (
        thing.bbox[3] - thing.bbox[1] > level.height
        and thing.occlusion <= level.occlusion
        and thing.truncation <= level.truncation
    )
