"""Bring your own teacher: one that has learned nothing and measures LiDAR points.

    python cli.py dump-teacher configs/demo_student.toml --out store --methods xgd,imitation \
        --teacher examples.geometric_teacher:factory

At a place it takes the points within ``REACH`` of it and above the ground: their mean is the box's
centre, their principal axes its heading and size, the class whose usual size comes nearest its
label. It cannot tell front from back nor see motion, as real LiDAR teachers can.

Axes: B frames, M boxes, N points, C channels.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from frames.augment import BevAugment
from frames.boxes import BoxBatch
from frames.detection_classes import DETECTION_CLASSES
from frames.detections import Detections
from frames.frame import Frame
from frames.grid import BEVGrid
from frames.heatmap import on_grid
from frames.loading import load_points
from store.fingerprint import TeacherIdentity
from store.plan import TeacherShapes
from store.schema import Target
from teacher_dump.protocol import TeacherInfo, TeacherOutput

# The demo students' grid: a student and its teacher share one.
GRID = BEVGrid(x_min=-38.4, y_min=-38.4, cell_size=1.2, shape=(64, 64))
REACH = 2.5  # metres
GROUND = 0.3  # metres
FEW_POINTS = 10.0
DETECTIONS = 50
# Usual length, width, height of each class, metres: nuScenes' means, rounded.
USUAL_SIZE = {
    "car": (4.6, 2.0, 1.7),
    "truck": (6.9, 2.5, 2.8),
    "construction_vehicle": (6.4, 2.9, 3.2),
    "bus": (11.0, 2.9, 3.5),
    "trailer": (12.3, 2.9, 3.9),
    "barrier": (0.5, 2.5, 1.0),
    "motorcycle": (2.1, 0.8, 1.5),
    "bicycle": (1.7, 0.6, 1.3),
    "pedestrian": (0.7, 0.7, 1.8),
    "traffic_cone": (0.4, 0.4, 1.1),
}


def factory(checkpoint: Path | None, device: torch.device) -> "GeometricTeacher":
    """What ``--teacher`` names; this teacher has no weights to read."""
    assert checkpoint is None, "the geometric teacher takes no --checkpoint"
    return GeometricTeacher(device)


class GeometricTeacher:
    """Fulfils ``teacher_dump.protocol.Teacher``."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        config = {"reach": REACH, "ground": GROUND, "few_points": FEW_POINTS}
        self.info = TeacherInfo(
            identity=TeacherIdentity(
                name="geometric",
                kind="lidar",
                # Constants instead of weights: two of these teachers differ if they do.
                checkpoint_sha256=hashlib.sha256(json.dumps(config).encode()).hexdigest(),
                config=dict(config),
            ),
            shapes=TeacherShapes(
                bev_low=3, bev_high=3, classes=len(DETECTION_CLASSES), tasks=1, grid=GRID
            ),
            classes=DETECTION_CLASSES,
            sweeps=1,
        )

    def __call__(
        self, frames: Sequence[Frame], boxes: BoxBatch, augments: Sequence[BevAugment]
    ) -> TeacherOutput:
        """Maps of point statistics, and a measured box at each true box's cell."""
        boxes = boxes.to(self.device)
        seen = zip(frames, augments, strict=True)
        clouds = [augment.points(self._cloud(frame)) for frame, augment in seen]
        low = torch.stack([point_maps(cloud) for cloud in clouds])
        places = GRID.cell_centres(GRID.cell_index(boxes.values[..., :2]))
        measured = [measure(cloud, xy) for cloud, xy in zip(clouds, places, strict=True)]
        found, presence = (torch.stack(parts) for parts in zip(*measured, strict=True))
        prob = class_prob(found, presence)
        logit = torch.logit(low[:, :1] / (1 + low[:, :1]) / len(DETECTION_CLASSES), eps=1e-4)
        return TeacherOutput(
            maps={
                Target.BEV_LOW: low,
                Target.BEV_HIGH: F.avg_pool2d(low, 3, stride=1, padding=1),
                Target.HEATMAP_LOGIT: logit.repeat(1, len(DETECTION_CLASSES), 1, 1),
            },
            boxes=found,
            scores=prob.gather(-1, boxes.labels[..., None]).squeeze(-1),
            labels=prob.argmax(-1),
            answered=on_grid(boxes, GRID) & (presence > 0),
        )

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        """Boxes measured at the fullest cells."""
        return [self._detect(self._cloud(frame)) for frame in frames]

    def _detect(self, cloud: Tensor) -> Detections:
        fullest = point_maps(cloud)[0].flatten().topk(DETECTIONS).indices
        found, presence = measure(cloud, GRID.cell_centres(fullest))
        scores, labels = class_prob(found, presence).max(-1)
        order = scores.argsort(descending=True)
        return Detections(found[order], labels[order], scores[order])

    def _cloud(self, frame: Frame) -> Tensor:
        cloud = load_points(frame).to(self.device)
        return cloud[cloud[:, 2] > GROUND]


def point_maps(cloud: Float[Tensor, "n 5"]) -> Float[Tensor, "3 h w"]:
    """Log of one plus the count, mean height and mean intensity (0..1) of each cell's points."""
    inside = cloud[GRID.contains(cloud[:, :2])]
    cell = GRID.cell_index(inside[:, :2])
    count = torch.bincount(cell, minlength=GRID.num_cells)
    columns = torch.stack([inside[:, 2], inside[:, 3] / 255], dim=1)
    total = columns.new_zeros(GRID.num_cells, 2).index_add(0, cell, columns)
    mean = total / count.clamp(min=1)[:, None]
    return torch.cat([count.log1p()[:, None], mean], dim=1).mT.reshape(-1, *GRID.shape)


def measure(
    cloud: Float[Tensor, "n 5"], places: Float[Tensor, "m 2"]
) -> tuple[Float[Tensor, "m 9"], Float[Tensor, " m"]]:
    """A box of the points about each place, and how sure it is that something is there (0..1)."""
    near = (torch.cdist(places, cloud[:, :2]) < REACH).to(cloud)
    count = near.sum(1)
    share = near / count.clamp(min=1)[:, None]
    centre = share @ cloud[:, :3]
    square = share @ (cloud[:, :3, None] * cloud[:, None, :3]).flatten(1)
    spread = square.view(-1, 3, 3) - centre[:, :, None] * centre[:, None, :]
    yaw = torch.atan2(2 * spread[:, 0, 1], spread[:, 0, 0] - spread[:, 1, 1]) / 2
    mean, half = (spread[:, 0, 0] + spread[:, 1, 1]) / 2, (spread[:, 0, 0] - spread[:, 1, 1]) / 2
    radius = torch.hypot(half, spread[:, 0, 1])
    variance = torch.stack([mean + radius, mean - radius, spread[:, 2, 2]], dim=1)
    # A uniform bar of length l has the variance l² / 12.
    size = (12 * variance).clamp(min=0.01).sqrt()
    still = torch.zeros_like(centre[:, :2])
    return torch.cat([centre, size, yaw[:, None], still], dim=1), 1 - (-count / FEW_POINTS).exp()


def class_prob(
    boxes: Float[Tensor, "*m 9"], presence: Float[Tensor, "*m"]
) -> Float[Tensor, "*m c"]:
    """Probability of each class: how near its usual size comes, times the presence."""
    usual = boxes.new_tensor([USUAL_SIZE[name] for name in DETECTION_CLASSES])
    gap = (boxes[..., None, 3:6] / usual).log().square().sum(-1)
    return (-gap / (2 * math.log(2) ** 2)).softmax(-1) * presence[..., None]
