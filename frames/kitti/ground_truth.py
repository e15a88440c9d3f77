"""Which labelled objects are ground truth for training, and their boxes."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from frames.boxes import BOX_SIZE, Boxes3D
from frames.geometry import box_corners
from frames.kitti.config import KittiConfig, Range
from frames.kitti.labels import KittiObject


def ground_truth(objects: Sequence[KittiObject], config: KittiConfig) -> Boxes3D:
    """The boxes to train on: class rules, truncation and range, as LIGA-Stereo has them.

    KITTI has no velocities; they are 0. Evaluation reads the labels, not these.

    Args:
        objects: A frame's labels.
        config: The rules; labels of the boxes index its classes.
    """
    rank: dict[str, int] = {name: index for index, name in enumerate(config.classes)}
    alias = {"Van": "Car"} if config.van_as_car else {}
    alias |= {"Person_sitting": "Pedestrian"} if config.sitting_as_pedestrian else {}
    named = [(thing, alias.get(thing.kind, thing.kind)) for thing in objects]
    kept = [
        (thing.box, rank[name])
        for thing, name in named
        if thing.box is not None and name in rank and thing.truncation < config.max_truncation
    ]
    values = torch.tensor([[*box, 0, 0] for box, _ in kept]).reshape(-1, BOX_SIZE)
    labels = torch.tensor([label for _, label in kept], dtype=torch.int64)
    inside = reaches_into(values, config.box_range)
    return Boxes3D(values[inside], labels[inside])


def reaches_into(boxes: Float[Tensor, "n 9"], limits: Range) -> Bool[Tensor, " n"]:
    """Whether at least one corner of a box lies in the range (its limits included)."""
    corners = box_corners(boxes)
    low, high = corners.new_tensor(limits[:3]), corners.new_tensor(limits[3:])
    return ((corners >= low) & (corners <= high)).all(-1).any(-1)
