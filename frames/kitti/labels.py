"""KITTI's label and result files: one object a line, 15 fields, and a score in results.

Conventions change here and nowhere else. KITTI has the middle of a box's bottom in the rectified
camera frame (x right, y down, z forward), sizes h w l and ``rotation_y`` about the camera's y axis.
Here a box is x y z l w h yaw in the pseudo-LiDAR frame: the rectified camera frame, only turned
(x forward = z_cam, y left = -x_cam, z up = -y_cam), with the geometric centre and
yaw = -(rotation_y + pi / 2), counter-clockwise from +x.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from frames.errors import DataError

Box = tuple[float, float, float, float, float, float, float]
Bbox = tuple[float, float, float, float]

DONT_CARE = "DontCare"
LABEL_FIELDS, RESULT_FIELDS = 15, 16
# The object development kit's readme.txt: what stands where a value is not known.
NO_TRUNCATION, NO_OCCLUSION, NO_ALPHA, NO_BOX = -1.0, -1, -10.0, "-1 -1 -1 -1000 -1000 -1000 -10"
# Labels have two decimals; LIGA-Stereo writes lengths and angles of results with six.
LABEL_DECIMALS, RESULT_DECIMALS = 2, 6


@dataclass(frozen=True, slots=True, kw_only=True)
class KittiObject:
    """One object of a label file, or one detection of a result file.

    Attributes:
        kind: KITTI's type: Car, Van, Truck, Pedestrian, Person_sitting, Cyclist, Tram, Misc, or
            DontCare for a region whose objects are not labelled.
        truncation: Share of the object outside the image, 0..1; -1 where not known.
        occlusion: 0 fully visible, 1 partly, 2 largely occluded, 3 unknown; -1 where not known.
        alpha: Observation angle, radians; -10 where not known.
        bbox: left, top, right, bottom in the left image, pixels from 0.
        box: x y z l w h yaw, pseudo-LiDAR frame, metres and radians, yaw in [-pi, pi]; None where
            there is no 3D box (DontCare, detections in 2D only).
        score: Confidence, higher is surer; None in labels.
    """

    kind: str
    truncation: float
    occlusion: int
    alpha: float
    bbox: Bbox
    box: Box | None
    score: float | None = None


def read_objects(path: Path) -> tuple[KittiObject, ...]:
    """The objects of a label or result file, in its order; an empty file has none.

    Raises:
        DataError: The file is missing, or a line is not KITTI's.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path} ({error}); unpack or write that file again") from error
    return tuple(
        _parse(line, f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    )


def write_objects(
    path: Path, objects: Iterable[KittiObject], decimals: int = RESULT_DECIMALS
) -> None:
    """Write a label or result file.

    Args:
        path: File; its folder exists.
        objects: In order; those with a score make a result file.
        decimals: Of every number but the score, which is written in full: KITTI's own labels
            have ``LABEL_DECIMALS``.
    """
    path.write_text("".join(f"{_line(thing, decimals)}\n" for thing in objects))


def box_of_label(
    size_hwl: tuple[float, float, float], bottom: tuple[float, float, float], rotation_y: float
) -> Box:
    """The box (x y z l w h yaw, pseudo-LiDAR) of KITTI's dimensions, location and rotation_y."""
    (height, width, length), (x_cam, y_cam, z_cam) = size_hwl, bottom
    yaw = math.remainder(-(rotation_y + math.pi / 2), math.tau)
    return (z_cam, -x_cam, height / 2 - y_cam, length, width, height, yaw)


def label_of_box(
    box: Box,
) -> tuple[tuple[float, float, float], tuple[float, float, float], float]:
    """KITTI's dimensions (h w l), location (bottom) and rotation_y in [-pi, pi] of a box."""
    x, y, z, length, width, height, yaw = box
    rotation_y = math.remainder(-(yaw + math.pi / 2), math.tau)
    return (height, width, length), (-y, height / 2 - z, x), rotation_y


def observation_angle(box: Box) -> float:
    """KITTI's alpha of a box: rotation_y less the bearing of the centre, in [-pi, pi]."""
    _, (x_cam, _, z_cam), rotation_y = label_of_box(box)
    return math.remainder(rotation_y - math.atan2(x_cam, z_cam), math.tau)


def _parse(line: str, where: str) -> KittiObject:
    kind, *rest = line.split()
    if 1 + len(rest) not in (LABEL_FIELDS, RESULT_FIELDS):
        raise DataError(
            f"{where}: {1 + len(rest)} fields; KITTI has {LABEL_FIELDS}, and {RESULT_FIELDS} "
            "with a score: write the line in that form"
        )
    try:
        numbers = [float(field) for field in rest]
    except ValueError as error:
        raise DataError(f"{where}: {error}; after its type a line holds numbers only") from error
    if not all(map(math.isfinite, numbers)):
        raise DataError(f"{where}: a number is not finite; leave that object out")
    truncation, occlusion, alpha, left, top, right, bottom = numbers[:7]
    height, width, length, x, y, z, rotation_y = numbers[7:14]
    known = (height, width, length) != (-1, -1, -1)
    return KittiObject(
        kind=kind,
        truncation=truncation,
        occlusion=int(occlusion),
        alpha=alpha,
        bbox=(left, top, right, bottom),
        box=box_of_label((height, width, length), (x, y, z), rotation_y) if known else None,
        score=numbers[14] if len(rest) == RESULT_FIELDS - 1 else None,
    )


def _line(thing: KittiObject, decimals: int) -> str:
    def text(*numbers: float) -> str:
        # Adding 0 makes a negative zero positive.
        return " ".join(f"{round(number, decimals) + 0.0:.{decimals}f}" for number in numbers)

    fields = [
        thing.kind,
        "-1" if thing.truncation == NO_TRUNCATION else text(thing.truncation),
        str(thing.occlusion),
        "-10" if thing.alpha == NO_ALPHA else text(thing.alpha),
        text(*thing.bbox),
    ]
    if thing.box is None:
        fields.append(NO_BOX)
    else:
        size_hwl, bottom, rotation_y = label_of_box(thing.box)
        fields.append(text(*size_hwl, *bottom, rotation_y))
    if thing.score is not None:
        fields.append(repr(float(thing.score)))
    return " ".join(fields)
