"""KITTI's object detection metrics: AP_2D, AOS, AP_BEV and AP_3D, at 40 and at 11 recalls.

The protocol, for one class, difficulty, metric and least overlap (``evaluate_object.cpp`` of the
development kit of 2017, and its port in wide use, traveller59's ``kitti-object-eval-python``, which
OpenPCDet and mmdetection3d carry):

- A label of the class counts if the difficulty admits it; else it is ignored, as are all labels of
  the class's neighbour (Van for Car, Person_sitting for Pedestrian). Others are not there.
- A detection of the class counts. One lower in the image than the difficulty's least height, or
  out of its depths where it has such, is ignored, *whatever its class*; others are not there.
- In the file's order each label, counted or ignored, takes the free detection that overlaps it by
  more than the least overlap: the one that counts and overlaps most, else the first ignored one.
  With both counting it is a true positive; with either ignored it is nothing.
- A counting detection that is not taken is a false positive, unless in 2D a DontCare area covers
  more than the least overlap of it.
- This happens at up to 41 score thresholds. They are scores of the true positives of a first pass
  over all detections in which a label takes the candidate of highest score, ignored ones included,
  each the nearest to its recall (``score_thresholds``). Precision at a recall is the best at that
  recall or beyond, and 0 where there is no threshold: fewer than 41 labels cannot reach 100.

Where the port and C++ differ:

- A label *as high as* the least height is ignored, as in the port (in some copies of C++ it
  counts).
- BEV and 3D overlaps are in float64, as in C++ (the port's are in float32 on a GPU, where 60 m are
  rounded to 4e-6 m: an overlap within about 1e-5 of the least may fall on the other side).
- AOS is left out if any detection has no alpha, as in C++ (the port asks the first one only).
- A threshold that leaves neither true nor false positives has precision 0 (0/0 in both, and then
  the port's AP is not a number).
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int8, Int64

from frames.detection_classes import KITTI_CLASSES
from frames.errors import DataError
from frames.kitti.average_precision import ABSENT, COUNTED, IGNORED, Contest, Curve, match
from frames.kitti.difficulty import KITTI_DIFFICULTIES, Difficulty
from frames.kitti.labels import DONT_CARE, NO_ALPHA, KittiObject
from frames.kitti.overlaps import (
    Pairs,
    Placed,
    bev_overlap,
    image_coverage,
    image_overlap,
    overlapping_pairs,
    volume_overlap,
)

UNKNOWN_BOX = (0.0,) * 7
NEIGHBOURS = {"Car": "Van", "Pedestrian": "Person_sitting"}


class Metric(StrEnum):
    """What is averaged: precision by overlap in the image, on the ground, in space; or AOS."""

    AP_2D = "2d"
    AOS = "aos"
    AP_BEV = "bev"
    AP_3D = "3d"


class Overlap(StrEnum):
    """Which of the two usual sets of least overlaps."""

    STRICT = "strict"
    LOOSE = "loose"


# get_official_eval_result of the port; in 2D both sets are the same.
_STRICT = {"Car": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5}
_LOOSE = {"Car": 0.5, "Pedestrian": 0.25, "Cyclist": 0.25}
LEAST_OVERLAPS = {
    Metric.AP_2D: {Overlap.STRICT: _STRICT, Overlap.LOOSE: _STRICT},
    Metric.AP_BEV: {Overlap.STRICT: _STRICT, Overlap.LOOSE: _LOOSE},
    Metric.AP_3D: {Overlap.STRICT: _STRICT, Overlap.LOOSE: _LOOSE},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KittiLabels:
    """All objects of a label file, in its order, DontCare areas included.

    Attributes:
        kinds: KITTI's type.
        truncation: Share outside the image; -1 where not known.
        occlusion: Level 0 to 3; -1 where not known.
        alpha: Observation angle, radians.
        bbox: left, top, right, bottom, pixels.
        boxes: x y z l w h yaw, pseudo-LiDAR frame, metres and radians; zeros where unknown.
    """

    kinds: tuple[str, ...]
    truncation: Float64[np.ndarray, " n"]
    occlusion: Int64[np.ndarray, " n"]
    alpha: Float64[np.ndarray, " n"]
    bbox: Float64[np.ndarray, "n 4"]
    boxes: Float64[np.ndarray, "n 7"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KittiDetections:
    """Detections of a frame; of equals the first goes first, else their order is free.

    Attributes:
        kinds: KITTI's type.
        alpha: Observation angle, radians; -10 where not known.
        bbox: left, top, right, bottom, pixels.
        boxes: x y z l w h yaw, pseudo-LiDAR frame, metres and radians; zeros where unknown.
        scores: Higher is surer.
    """

    kinds: tuple[str, ...]
    alpha: Float64[np.ndarray, " n"]
    bbox: Float64[np.ndarray, "n 4"]
    boxes: Float64[np.ndarray, "n 7"]
    scores: Float64[np.ndarray, " n"]


def as_labels(objects: Sequence[KittiObject]) -> KittiLabels:
    """The objects of a label file."""
    return KittiLabels(
        kinds=tuple(thing.kind for thing in objects),
        truncation=np.array([thing.truncation for thing in objects], dtype=np.float64),
        occlusion=np.array([thing.occlusion for thing in objects], dtype=np.int64),
        alpha=np.array([thing.alpha for thing in objects], dtype=np.float64),
        bbox=_rows([thing.bbox for thing in objects], 4),
        boxes=_rows([thing.box or UNKNOWN_BOX for thing in objects], 7),
    )


def as_detections(objects: Sequence[KittiObject]) -> KittiDetections:
    """The objects of a result file.

    Raises:
        DataError: One has no score.
    """
    scores = [thing.score for thing in objects if thing.score is not None]
    if len(scores) < len(objects):
        raise DataError(
            f"{len(objects) - len(scores)} of {len(objects)} detections have no score: expected "
            "result files, 16 fields a line, the last one the score"
        )
    return KittiDetections(
        kinds=tuple(thing.kind for thing in objects),
        alpha=np.array([thing.alpha for thing in objects], dtype=np.float64),
        bbox=_rows([thing.bbox for thing in objects], 4),
        boxes=_rows([thing.box or UNKNOWN_BOX for thing in objects], 7),
        scores=np.array(scores, dtype=np.float64),
    )


def _rows(values: Sequence[tuple[float, ...]], width: int) -> Float64[np.ndarray, "n _"]:
    return np.array(values, dtype=np.float64).reshape(-1, width)


class Setting(NamedTuple):
    """Of which class, metric, difficulty and set of least overlaps a score is."""

    kind: str
    metric: Metric
    difficulty: str
    overlap: Overlap


KittiScores = dict[Setting, Curve]


def score_kitti(
    labels: Mapping[str, KittiLabels],
    detections: Mapping[str, KittiDetections],
    difficulties: Sequence[Difficulty] = KITTI_DIFFICULTIES,
) -> KittiScores:
    """Score detections as KITTI does; each curve has ``r40`` and ``r11``, in percent.

    Args:
        labels: Token -> objects of that frame.
        detections: Token -> detections of that frame, of the same frames.
        difficulties: Which labels count; KITTI's own by default.

    Returns:
        A curve for every setting; none of AOS where a detection has no alpha.

    Raises:
        DataError: Labels and detections are of different frames.
        ValueError: A detection is not finite.
    """
    _check(labels, detections)
    truth, label_frames = _join_labels(list(labels.values()))
    found, frames = _join_detections([detections[token] for token in labels])
    if not all(np.isfinite(values).all() for values in (found.bbox, found.boxes, found.scores)):
        raise ValueError("detections are not finite; the detector diverged")
    pairs = _pairs(truth, label_frames, found, frames)
    covered = _covered(truth, label_frames, found, frames)
    curves: KittiScores = {}
    for kind, difficulty in itertools.product(KITTI_CLASSES, difficulties):
        contest = Contest(
            label_frames=label_frames,
            label_roles=label_roles(truth, kind, difficulty),
            detection_roles=_detection_roles(found, kind, difficulty),
            scores=found.scores,
        )
        for metric, overlap in itertools.product(LEAST_OVERLAPS, Overlap):
            least = LEAST_OVERLAPS[metric][overlap][kind]
            excused = (covered > least) & (metric is Metric.AP_2D)
            outcome = match(contest, pairs[metric].above(least), excused)
            curves[Setting(kind, metric, difficulty.name, overlap)] = outcome.precision()
            if metric is Metric.AP_2D and not (found.alpha == NO_ALPHA).any():
                curves[Setting(kind, Metric.AOS, difficulty.name, overlap)] = (
                    outcome.orientation_similarity(truth.alpha, found.alpha)
                )
    return curves


def _check(labels: Mapping[str, KittiLabels], detections: Mapping[str, KittiDetections]) -> None:
    if not labels:
        raise DataError("there are no frames to score; give the labels of at least one")
    odd = sorted(labels.keys() ^ detections.keys())
    if odd:
        raise DataError(
            f"{len(labels)} frames have labels, {len(detections)} have detections, and {len(odd)} "
            f"only one of the two ({odd[:3]}); score the frames that were detected on, with empty "
            "detections where nothing was found"
        )


def _join_labels(frames: list[KittiLabels]) -> tuple[KittiLabels, Int64[np.ndarray, " n"]]:
    joined = KittiLabels(
        kinds=tuple(kind for frame in frames for kind in frame.kinds),
        truncation=np.concatenate([frame.truncation for frame in frames]),
        occlusion=np.concatenate([frame.occlusion for frame in frames]),
        alpha=np.concatenate([frame.alpha for frame in frames]),
        bbox=np.concatenate([frame.bbox for frame in frames]),
        boxes=np.concatenate([frame.boxes for frame in frames]),
    )
    return joined, _frame_indices([len(frame.kinds) for frame in frames])


def _join_detections(
    frames: list[KittiDetections],
) -> tuple[KittiDetections, Int64[np.ndarray, " n"]]:
    joined = KittiDetections(
        kinds=tuple(kind for frame in frames for kind in frame.kinds),
        alpha=np.concatenate([frame.alpha for frame in frames]),
        bbox=np.concatenate([frame.bbox for frame in frames]),
        boxes=np.concatenate([frame.boxes for frame in frames]),
        scores=np.concatenate([frame.scores for frame in frames]),
    )
    return joined, _frame_indices([len(frame.kinds) for frame in frames])


def _frame_indices(counts: list[int]) -> Int64[np.ndarray, " n"]:
    return np.repeat(np.arange(len(counts)), counts)


def _pairs(
    truth: KittiLabels,
    label_frames: Int64[np.ndarray, " g"],
    found: KittiDetections,
    frames: Int64[np.ndarray, " d"],
) -> dict[Metric, Pairs]:
    in_image = Placed(truth.bbox, label_frames), Placed(found.bbox, frames)
    in_space = Placed(truth.boxes, label_frames), Placed(found.boxes, frames)
    least = min(_LOOSE.values())
    return {
        Metric.AP_2D: overlapping_pairs(*in_image, image_overlap, least),
        Metric.AP_BEV: overlapping_pairs(*in_space, bev_overlap, least),
        Metric.AP_3D: overlapping_pairs(*in_space, volume_overlap, least),
    }


def _covered(
    truth: KittiLabels,
    label_frames: Int64[np.ndarray, " g"],
    found: KittiDetections,
    frames: Int64[np.ndarray, " d"],
) -> Float64[np.ndarray, " d"]:
    """Largest share of each detection that one DontCare area covers."""
    areas = _are(truth.kinds, DONT_CARE)
    pairs = overlapping_pairs(
        Placed(truth.bbox[areas], label_frames[areas]),
        Placed(found.bbox, frames),
        image_coverage,
        0,
    )
    covered = np.zeros(len(frames))
    np.maximum.at(covered, pairs.detections, pairs.overlap)
    return covered


def label_roles(truth: KittiLabels, kind: str, difficulty: Difficulty) -> Int8[np.ndarray, " g"]:
    """Whether each label counts, is ignored or is not there, when a class is scored."""
    admitted = (
        (truth.occlusion <= difficulty.occlusion)
        & (truth.truncation <= difficulty.truncation)
        & (truth.bbox[:, 3] - truth.bbox[:, 1] > difficulty.height)
        & _in_reach(truth.boxes, difficulty)
    )
    roles = np.full(len(truth.kinds), ABSENT, dtype=np.int8)
    roles[_are(truth.kinds, NEIGHBOURS.get(kind))] = IGNORED
    of_kind = _are(truth.kinds, kind)
    roles[of_kind] = np.where(admitted[of_kind], COUNTED, IGNORED)
    return roles


def _detection_roles(
    found: KittiDetections, kind: str, difficulty: Difficulty
) -> Int8[np.ndarray, " d"]:
    roles = np.where(_are(found.kinds, kind), COUNTED, ABSENT).astype(np.int8)
    low = np.abs(found.bbox[:, 3] - found.bbox[:, 1]) < difficulty.height
    roles[low | ~_in_reach(found.boxes, difficulty)] = IGNORED
    return roles


def _in_reach(boxes: Float64[np.ndarray, "n 7"], difficulty: Difficulty) -> Bool[np.ndarray, " n"]:
    inside: np.ndarray = (boxes[:, 0] > difficulty.near) & (boxes[:, 0] < difficulty.far)
    return inside


def _are(kinds: Iterable[str], wanted: str | None) -> Bool[np.ndarray, " n"]:
    """Which kinds are the wanted one, in whatever case."""
    folded = wanted and wanted.casefold()
    return np.array([kind.casefold() == folded for kind in kinds], dtype=np.bool_)
