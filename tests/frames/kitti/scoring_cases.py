"""Labels and detections to score: by hand, and random ones full of conflicts."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from frames.kitti.scoring import KittiDetections, KittiLabels

# kind, bbox, box
Row = tuple[str, ArrayLike, ArrayLike]
LABEL_KINDS = ("Car", "Car", "Van", "Pedestrian", "Person_sitting", "Cyclist", "Truck", "DontCare")
DETECTION_KINDS = ("Car", "Car", "Pedestrian", "Cyclist")


def labels_of(
    rows: Sequence[Row],
    truncation: Sequence[float] | None = None,
    occlusion: Sequence[int] | None = None,
    alpha: Sequence[float] | None = None,
) -> KittiLabels:
    count = len(rows)
    return KittiLabels(
        kinds=tuple(kind for kind, _, _ in rows),
        truncation=np.array(truncation or [0.0] * count, dtype=np.float64),
        occlusion=np.array(occlusion or [0] * count, dtype=np.int64),
        alpha=np.array(alpha or [0.0] * count, dtype=np.float64),
        bbox=np.array([bbox for _, bbox, _ in rows], dtype=np.float64).reshape(count, 4),
        boxes=np.array([box for _, _, box in rows], dtype=np.float64).reshape(count, 7),
    )


def detections_of(
    rows: Sequence[Row], scores: Sequence[float], alpha: Sequence[float] | None = None
) -> KittiDetections:
    count = len(rows)
    return KittiDetections(
        kinds=tuple(kind for kind, _, _ in rows),
        alpha=np.array(alpha or [0.0] * count, dtype=np.float64),
        bbox=np.array([bbox for _, bbox, _ in rows], dtype=np.float64).reshape(count, 4),
        boxes=np.array([box for _, _, box in rows], dtype=np.float64).reshape(count, 7),
        scores=np.array(scores, dtype=np.float64),
    )


def thing(place: int, kind: str = "Car", *, height: float = 60, shift: float = 0) -> Row:
    """An object at one of many places, 4 m or 60 pixels wide, moved by a share of its width."""
    left, x = 100 * place + 60 * shift, 10 * place + 4 * shift
    return kind, (left, 100, left + 60, 100 + height), (x, 0, 0, 4, 2, 1.5, 0)


def shuffled(detections: KittiDetections, generator: np.random.Generator) -> KittiDetections:
    order = generator.permutation(len(detections.scores))
    return KittiDetections(
        kinds=tuple(detections.kinds[i] for i in order),
        alpha=detections.alpha[order],
        bbox=detections.bbox[order],
        boxes=detections.boxes[order],
        scores=detections.scores[order],
    )


def random_frame(
    generator: np.random.Generator, *, objects: int = 9, decimals: int = 1
) -> tuple[KittiLabels, KittiDetections]:
    """A crowded frame: objects overlap, heights stand at the limits, scores are often equal."""
    count = int(generator.integers(0, objects))
    bbox, boxes = _random_places(generator, count)
    kinds = generator.choice(LABEL_KINDS, count)
    rows = [
        (str(kind), b, np.zeros(7) if kind == "DontCare" else v)
        for kind, b, v in zip(kinds, bbox, boxes, strict=True)
    ]
    labels = labels_of(
        rows,
        list(generator.choice([0, 0, 0, 0.15, 0.16, 0.3, 0.5, 0.6], count)),
        list(generator.choice([0, 0, 0, 1, 2, 3], count)),
        list(generator.uniform(-3, 3, count)),
    )
    near = generator.integers(0, count, 2 * count) if count else np.zeros(0, dtype=np.int64)
    stray_bbox, stray_boxes = _random_places(generator, int(generator.integers(0, 5)))
    jitter = generator.choice([0.01, 0.02, 0.1], (len(near), 1))
    near_bbox = bbox[near] + jitter * 20 * generator.normal(size=(len(near), 4))
    near_boxes = boxes[near] + jitter * generator.normal(size=(len(near), 7))
    near_boxes[:, 3:6] = near_boxes[:, 3:6].clip(min=0.2)
    same = generator.random(len(near)) < 0.7
    guesses = np.where(same, kinds[near], generator.choice(DETECTION_KINDS, len(near)))
    all_kinds = [*guesses, *generator.choice(DETECTION_KINDS, len(stray_bbox))]
    rows = [
        (str(kind), b, v)
        for kind, b, v in zip(
            all_kinds, [*near_bbox, *stray_bbox], [*near_boxes, *stray_boxes], strict=True
        )
    ]
    scores = generator.random(len(rows)).round(decimals)
    return labels, detections_of(rows, list(scores), list(generator.uniform(-3, 3, len(rows))))


def _random_places(generator: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    corner = generator.uniform(0, 120, (count, 2))
    height = generator.choice([20, 25, 26, 40, 40.5, 60, 80], (count, 1))
    bbox = np.concatenate([corner, corner + np.concatenate([1.3 * height, height], axis=1)], axis=1)
    low, high = [5, -4, -1, 1, 0.5, 1, -4], [13, 4, -0.5, 4, 2, 2, 4]
    return bbox, generator.uniform(low, high, (count, 7))
