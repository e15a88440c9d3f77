"""Run a detector over frames, and draw what it finds."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from frames.detections import Detections
from frames.draw import Layer, draw_frame
from frames.frame import Frame
from frames.grid import BEVGrid
from frames.loading import load_points

Detect = Callable[[Sequence[Frame]], list[Detections]]

# Colour-blind safe (Okabe and Ito).
COLOURS = {
    "ground truth": "#56d364",
    "teacher": "#56b4e9",
    "student": "#e69f00",
    "labels": "#e69f00",
}
MIN_DRAWN_SCORE = 0.2


def detect_all(
    detect: Detect,
    frames: Sequence[Frame],
    *,
    batch_size: int = 8,
    on_frames: Callable[[int], None] = lambda _frames: None,
) -> dict[str, Detections]:
    """Detections by token; ``on_frames`` is told how many more frames are done."""
    found: dict[str, Detections] = {}
    for start in range(0, len(frames), batch_size):
        batch = frames[start : start + batch_size]
        found |= {f.token: d for f, d in zip(batch, detect(batch), strict=True)}
        on_frames(len(batch))
    return found


def spread_evenly(frames: Sequence[Frame], count: int) -> list[Frame]:
    """``count`` frames (or all, if there are fewer), spread evenly over the sequence."""
    count = min(count, len(frames))
    return [frames[(2 * k + 1) * len(frames) // (2 * count)] for k in range(count)]


def draw_pictures(
    frames: Sequence[Frame],
    found: Mapping[str, Mapping[str, Detections]],
    grid: BEVGrid,
    out_dir: Path,
    classes: tuple[str, ...],
) -> list[Path]:
    """A PNG of each frame: cameras, points, ground truth and detections.

    Args:
        frames: To draw.
        found: Detections by token, by the detector's role ("teacher", "student").
        grid: Range of the ground plane.
        out_dir: Made if need be.
        classes: Names that labels index.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = []
    for frame in frames:
        layers = [
            Layer(
                name="ground truth",
                colour=COLOURS["ground truth"],
                boxes=frame.boxes.values,
                names=_names(frame.boxes.labels, classes),
            )
        ]
        layers += [_layer(name, by_token[frame.token], classes) for name, by_token in found.items()]
        path = out_dir / f"{frame.token}.png"
        # A machine for students may have no LiDAR files.
        has_points = all(sweep.path.is_file() for sweep in frame.sweeps)
        points = load_points(frame) if has_points else torch.zeros(0, 5)
        draw_frame(frame, path, points=points, layers=layers, grid=grid)
        paths.append(path)
    return paths


def _layer(name: str, detections: Detections, classes: tuple[str, ...]) -> Layer:
    sure = detections.scores >= MIN_DRAWN_SCORE
    return Layer(
        name=name,
        colour=COLOURS[name],
        boxes=detections.boxes[sure],
        names=_names(detections.labels[sure], classes),
        scores=detections.scores[sure],
    )


def _names(labels: Int64[Tensor, " n"], classes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(classes[label] for label in labels.tolist())
