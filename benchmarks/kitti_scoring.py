"""How long does KITTI's scoring take?

    python -m benchmarks.kitti_scoring [--frames 3769] [--per-frame 20,35,50] [--seed 0]

Frames as numerous as KITTI's validation split, with about eight labels each and their share of
classes; detections are the labels, shaken, and strays. All classes, difficulties, metrics and both
sets of overlaps are scored; reading files is not in the time.
"""

import time
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from commands.progress import console
from frames.detection_classes import KITTI_CLASSES
from frames.kitti.scoring import (
    KittiDetections,
    KittiLabels,
    Metric,
    Overlap,
    Setting,
    score_kitti,
)

# Objects of each type in KITTI's 7,481 training labels, in thousands: the object benchmark's paper.
SHARES = {
    "Car": 28.7,
    "Pedestrian": 4.5,
    "Cyclist": 1.6,
    "Van": 2.9,
    "Truck": 1.1,
    "Misc": 1.0,
    "DontCare": 11.3,
}
SIZES = {"Car": (3.9, 1.6, 1.56), "Pedestrian": (0.8, 0.6, 1.73), "Cyclist": (1.76, 0.6, 1.73)}
FOCAL, CENTRE_U, CENTRE_V, CAMERA_HEIGHT = 721.5, 609.6, 172.9, 1.65
LABELS = 8


def main(
    frames: Annotated[int, typer.Option(min=1, help="How many.")] = 3769,
    per_frame: Annotated[str, typer.Option(help="Detections a frame, a list.")] = "20,35,50",
    seed: Annotated[int, typer.Option(help="Of everything drawn.")] = 0,
) -> None:
    """Print seconds for each number of detections a frame, and moderate AP_3D as a check."""
    table = Table("detections a frame", "seconds", *(f"AP_3D {kind}" for kind in KITTI_CLASSES))
    for count in map(int, per_frame.split(",")):
        generator = np.random.default_rng(seed)
        labels = {str(i): _labels(generator) for i in range(frames)}
        found = {token: _detections(generator, labels[token], count) for token in labels}
        start = time.perf_counter()
        scores = score_kitti(labels, found)
        seconds = time.perf_counter() - start
        settings = [
            Setting(kind, Metric.AP_3D, "moderate", Overlap.STRICT) for kind in KITTI_CLASSES
        ]
        table.add_row(
            str(count), f"{seconds:.1f}", *(f"{scores[setting].r40:.2f}" for setting in settings)
        )
    console.print(table)


def _labels(generator: np.random.Generator) -> KittiLabels:
    shares = np.array(list(SHARES.values()))
    count = int(generator.integers(1, 2 * LABELS))
    kinds = tuple(map(str, generator.choice(list(SHARES), count, p=shares / shares.sum())))
    boxes = _boxes(generator, kinds)
    return KittiLabels(
        kinds=kinds,
        truncation=generator.choice([0, 0, 0, 0.1, 0.4], count),
        occlusion=generator.choice([0, 0, 1, 2, 3], count),
        alpha=boxes[:, 6],
        bbox=_bbox(boxes),
        boxes=boxes,
    )


def _boxes(generator: np.random.Generator, kinds: tuple[str, ...]) -> np.ndarray:
    x = generator.uniform(4, 60, len(kinds))
    y = x * generator.uniform(-0.7, 0.7, len(kinds))
    size = np.array([SIZES.get(kind, SIZES["Car"]) for kind in kinds]).reshape(-1, 3)
    yaw = generator.uniform(-np.pi, np.pi, len(kinds))
    return np.column_stack([x, y, size[:, 2] / 2 - CAMERA_HEIGHT, size, yaw])


def _bbox(boxes: np.ndarray) -> np.ndarray:
    x, y, z, length, _, height, _ = boxes.T
    u, v = CENTRE_U - FOCAL * y / x, CENTRE_V - FOCAL * z / x
    half_width, half_height = FOCAL * length / x / 2, FOCAL * height / x / 2
    return np.column_stack([u - half_width, v - half_height, u + half_width, v + half_height])


def _detections(generator: np.random.Generator, labels: KittiLabels, count: int) -> KittiDetections:
    sources = generator.integers(0, len(labels.kinds), count // 2)
    strays = tuple(map(str, generator.choice(KITTI_CLASSES, count - len(sources))))
    kinds = tuple(labels.kinds[i] for i in sources)
    shaken = labels.boxes[sources] + generator.normal(size=(len(sources), 7)) * 0.1
    boxes = np.concatenate([shaken, _boxes(generator, strays)])
    sure = np.concatenate([np.full(len(kinds), 0.2), np.zeros(len(strays))])
    return KittiDetections(
        kinds=kinds + strays,
        alpha=boxes[:, 6],
        bbox=_bbox(boxes),
        boxes=boxes,
        scores=(sure + generator.random(count)).round(4),
    )


if __name__ == "__main__":
    typer.run(main)
