"""KITTI's protocol read literally: one frame, label, detection and threshold after the other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from shapely.geometry import Polygon

from frames.detection_classes import KITTI_CLASSES
from frames.kitti.difficulty import KITTI_DIFFICULTIES, Difficulty
from frames.kitti.scoring import (
    LEAST_OVERLAPS,
    KittiDetections,
    KittiLabels,
    Metric,
    Overlap,
    Setting,
)

Frames = list[tuple[KittiLabels, KittiDetections]]


def literal_scores(
    frames: Frames, difficulties: Sequence[Difficulty] = KITTI_DIFFICULTIES
) -> dict[Setting, tuple[float, float]]:
    """R40 and R11 of every setting, in percent."""
    scores = {}
    for metric, sets in LEAST_OVERLAPS.items():
        overlaps = [_overlaps(metric, *frame) for frame in frames]
        for kind in KITTI_CLASSES:
            for difficulty in difficulties:
                roles = [_roles(kind, difficulty, *frame) for frame in frames]
                for overlap in Overlap:
                    least = sets[overlap][kind]
                    games = [
                        _Game(metric, least, *frame, matrix, *role)
                        for frame, matrix, role in zip(frames, overlaps, roles, strict=True)
                    ]
                    precision, similarity = _curves(games)
                    key = (kind, metric, difficulty.name, overlap)
                    scores[Setting(*key)] = _averages(precision)
                    if metric is Metric.AP_2D:
                        scores[Setting(kind, Metric.AOS, *key[2:])] = _averages(similarity)
    return scores


def _averages(curve: list[float]) -> tuple[float, float]:
    return sum(curve[1:]) / 40 * 100, sum(curve[::4]) / 11 * 100


def _overlaps(
    metric: Metric, labels: KittiLabels, detections: KittiDetections
) -> list[list[float]]:
    if metric is Metric.AP_2D:
        return [[_image_overlap(d, g) for g in labels.bbox] for d in detections.bbox]
    return [
        [_turned_overlap(d, g, metric is Metric.AP_3D) for g in labels.boxes]
        for d in detections.boxes
    ]


def _image_overlap(a: np.ndarray, b: np.ndarray, *, of_a: bool = False) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    area_a, area_b = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    return float(width * height / (area_a if of_a else area_a + area_b - width * height))


def _footprint(box: np.ndarray) -> Polygon:
    x, y, _, length, width, _, yaw = box
    corners = [(1, 1), (1, -1), (-1, -1), (-1, 1)]
    ahead = [(a * length / 2, b * width / 2) for a, b in corners]
    cos, sin = math.cos(yaw), math.sin(yaw)
    return Polygon([(x + cos * a - sin * b, y + sin * a + cos * b) for a, b in ahead])


def _turned_overlap(a: np.ndarray, b: np.ndarray, volume: bool) -> float:
    if a[3] == 0 or b[3] == 0 or math.hypot(*(a[:2] - b[:2])) > math.hypot(*(a[3:5] + b[3:5])):
        return 0.0
    shared = _footprint(a).intersection(_footprint(b)).area
    sizes = [float(np.prod(box[3:6] if volume else box[3:5])) for box in (a, b)]
    if volume:
        top, bottom = min(a[2] + a[5] / 2, b[2] + b[5] / 2), max(a[2] - a[5] / 2, b[2] - b[5] / 2)
        shared *= max(0.0, top - bottom)
    return float(shared / (sum(sizes) - shared))


def _roles(
    kind: str, difficulty: Difficulty, labels: KittiLabels, detections: KittiDetections
) -> tuple[list[int], list[int]]:
    """0 counts, 1 is ignored, -1 is not there."""
    neighbour = {"Car": "Van", "Pedestrian": "Person_sitting"}.get(kind)
    of_labels = []
    for i, name in enumerate(labels.kinds):
        too_hard = (
            labels.occlusion[i] > difficulty.occlusion
            or labels.truncation[i] > difficulty.truncation
            or labels.bbox[i, 3] - labels.bbox[i, 1] <= difficulty.height
            or not difficulty.near < labels.boxes[i, 0] < difficulty.far
        )
        if name == kind:
            of_labels.append(1 if too_hard else 0)
        else:
            of_labels.append(1 if name == neighbour else -1)
    of_detections = []
    for i, name in enumerate(detections.kinds):
        low = abs(detections.bbox[i, 3] - detections.bbox[i, 1]) < difficulty.height
        if low or not difficulty.near < detections.boxes[i, 0] < difficulty.far:
            of_detections.append(1)
        else:
            of_detections.append(0 if name == kind else -1)
    return of_labels, of_detections


@dataclass
class _Game:
    metric: Metric
    least: float
    labels: KittiLabels
    detections: KittiDetections
    overlaps: list[list[float]]
    label_roles: list[int]
    detection_roles: list[int]

    def first_scores(self) -> list[float]:
        """Scores of true positives where each label takes the surest candidate."""
        assigned: set[int] = set()
        scores = []
        for g, role in enumerate(self.label_roles):
            if role == -1:
                continue
            best = None
            for d in self._candidates(g, assigned, -math.inf):
                score = self.detections.scores[d]
                if best is None or score > self.detections.scores[best]:
                    best = d
            if best is None:
                continue
            assigned.add(best)
            if role == 0 and self.detection_roles[best] == 0:
                scores.append(float(self.detections.scores[best]))
        return scores

    def counts(self, threshold: float) -> tuple[int, int, float]:
        """True positives, false positives, and the sum of orientation similarity."""
        assigned: set[int] = set()
        right, similarity = 0, 0.0
        for g, role in enumerate(self.label_roles):
            if role == -1:
                continue
            best, most, fallback = None, 0.0, None
            for d in self._candidates(g, assigned, threshold):
                if self.detection_roles[d] == 0 and self.overlaps[d][g] > most:
                    best, most = d, self.overlaps[d][g]
                elif self.detection_roles[d] == 1 and fallback is None:
                    fallback = d
            taken = fallback if best is None else best
            if taken is None:
                continue
            assigned.add(taken)
            if role == 0 and best is not None:
                right += 1
                turn = self.labels.alpha[g] - self.detections.alpha[best]
                similarity += (1 + math.cos(turn)) / 2
        wrong = sum(
            role == 0
            and d not in assigned
            and self.detections.scores[d] >= threshold
            and not self._in_dont_care(d)
            for d, role in enumerate(self.detection_roles)
        )
        return right, wrong, similarity

    def _candidates(self, g: int, assigned: set[int], threshold: float) -> list[int]:
        return [
            d
            for d, role in enumerate(self.detection_roles)
            if role != -1
            and d not in assigned
            and self.detections.scores[d] >= threshold
            and self.overlaps[d][g] > self.least
        ]

    def _in_dont_care(self, d: int) -> bool:
        areas = [
            b
            for b, name in zip(self.labels.bbox, self.labels.kinds, strict=True)
            if name == "DontCare"
        ]
        box = self.detections.bbox[d]
        return self.metric is Metric.AP_2D and any(
            _image_overlap(box, area, of_a=True) > self.least for area in areas
        )


def _curves(games: list[_Game]) -> tuple[list[float], list[float]]:
    counted = sum(game.label_roles.count(0) for game in games)
    thresholds = literal_thresholds(
        [score for game in games for score in game.first_scores()], counted
    )
    precision, similarity = [0.0] * 41, [0.0] * 41
    for t, threshold in enumerate(thresholds):
        totals = [game.counts(threshold) for game in games]
        right, wrong = sum(r for r, _, _ in totals), sum(w for _, w, _ in totals)
        if right + wrong:
            precision[t] = right / (right + wrong)
            similarity[t] = sum(s for _, _, s in totals) / (right + wrong)
    for t in range(len(thresholds)):
        precision[t], similarity[t] = max(precision[t:]), max(similarity[t:])
    return precision, similarity


def literal_thresholds(scores: list[float], counted: int) -> list[float]:
    """The scores that sample recall, highest first."""
    scores = sorted(scores, reverse=True)
    thresholds, recall = [], 0.0
    for i, score in enumerate(scores):
        here = (i + 1) / counted
        last = i == len(scores) - 1
        following = here if last else (i + 2) / counted
        if following - recall < recall - here and not last:
            continue
        thresholds.append(score)
        recall += 1 / 40.0
    return thresholds
