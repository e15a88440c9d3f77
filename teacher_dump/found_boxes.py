"""A teacher's detections as arrays of a row, and how two tellings of them are compared.

What is stored of a detection: its box, score and class probabilities; which true box it overlaps
most, and their 3D IoU. So a method that weighs detections by how good they are (STXD) needs no
geometry of its own, and IoU and object stay what they are in any augmented frame.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from frames.boxes import CENTRE, SIZE, VELOCITY, YAW, Boxes3D
from frames.detections import Detections
from frames.rotated_iou import pairwise_iou_3d
from nets.center_head import CenterMaps
from store.schema import MOST_FOUND, NO_OBJECT
from teacher_dump.protocol import FoundBoxes

# Boxes that overlap less do not belong together: rounding would decide whether they touch.
LEAST_IOU = 1e-4
# Of boxes that are told twice, metres apart at most.
SAME_PLACE = 0.05


def found_at_cells(head: CenterMaps, frames: Sequence[Detections]) -> list[FoundBoxes]:
    """The best detections of a centre head, with the probabilities of all classes at their cells.

    Args:
        head: Of the batch.
        frames: Decoded from it, with their cells, best first.
    """
    found = []
    for logit, detections in zip(head.heatmap_logit.flatten(2), frames, strict=True):
        assert detections.cells is not None, "a centre head's decoders say the cells"
        best = slice(MOST_FOUND)
        found.append(
            FoundBoxes(
                boxes=detections.boxes[best],
                scores=detections.scores[best],
                probability=logit[:, detections.cells[best]].T.sigmoid(),
            )
        )
    return found


def detection_arrays(found: FoundBoxes, truth: Boxes3D) -> dict[str, npt.NDArray[Any]]:
    """The arrays of one frame's detections, by name.

    Args:
        found: In the frame of the ground truth.
        truth: Whose overlaps are told, whatever their classes. Several detections may have one
            object.
    """
    boxes = found.boxes.cpu().float()
    iou = torch.zeros(len(boxes))
    owner = torch.full((len(boxes),), NO_OBJECT)
    if len(truth) and len(boxes):
        # In float64: where boxes are equal but for rounding, rounding stays rounding.
        overlap, best = pairwise_iou_3d(boxes.double(), truth.values.double()).max(1)
        is_own = overlap >= LEAST_IOU
        iou = torch.where(is_own, overlap, 0.0).float()
        owner = torch.where(is_own, best, NO_OBJECT)
    values = {
        "centre": boxes[:, CENTRE],
        "size": boxes[:, SIZE],
        "yaw": boxes[:, YAW],
        "velocity": boxes[:, VELOCITY],
        "score": found.scores.cpu().float(),
        "object": owner.int(),
        "iou": iou,
        "probability": found.probability.cpu().float(),
    }
    return {f"detections/{name}": value.contiguous().numpy() for name, value in values.items()}


def same_order(
    stored: Mapping[str, npt.NDArray[Any]], now: Mapping[str, npt.NDArray[Any]]
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[Any]]]:
    """Two tellings of a frame's detections, each reduced to those of both and put in one order.

    Rounding may exchange detections of nearly equal score, and at the end of the list, where it is
    cut, let one in for another. A detection that only one telling has is left out if it scores no
    higher than the lowest of the other one; else it stays, and the two have different lengths.

    Args:
        stored: Arrays below ``detections/``, by name.
        now: The same of another run.
    """
    pairs = _pairs(stored, now)
    return (
        _reduced(stored, [a for a, _ in pairs], now),
        _reduced(now, [b for _, b in pairs], stored),
    )


def _reduced(
    told: Mapping[str, npt.NDArray[Any]], paired: list[int], other: Mapping[str, npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    """The paired ones, then those that the other telling should have had."""
    scores, others = told["detections/score"], other["detections/score"]
    lowest = others.min() if len(others) else 0.0
    missing = sorted(set(range(len(scores))) - set(paired))
    kept = paired + [k for k in missing if scores[k] > lowest]
    return {name: values[kept] for name, values in told.items()}


def _pairs(
    stored: Mapping[str, npt.NDArray[Any]], now: Mapping[str, npt.NDArray[Any]]
) -> list[tuple[int, int]]:
    """Which detections are the same, by place; of those at one place, by score."""
    centres = now["detections/centre"]
    free = np.ones(len(centres), bool)
    pairs = []
    for k, centre in enumerate(stored["detections/centre"]):
        near = free & (np.abs(centres - centre).max(1, initial=0) < SAME_PLACE)
        if near.any():
            gap = np.abs(now["detections/score"] - stored["detections/score"][k])
            best = int(np.where(near, gap, np.inf).argmin())
            free[best] = False
            pairs.append((k, best))
    return pairs
