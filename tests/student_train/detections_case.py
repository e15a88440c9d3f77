"""Detections made of a head's maps at true boxes, for the tests of STXD."""

import torch

from frames.box_code import decode_boxes
from frames.boxes import BoxBatch, Boxes3D
from nets.center_head import codes_at
from student_train.methods.base import DetectionTargets, StudentMaps
from tests.student_train.method_suite import GRID


def detections_of(maps: StudentMaps, frames: list[Boxes3D], iou: float = 0.64) -> DetectionTargets:
    """What the maps say at each true box's centre cell, as if it had been found there."""
    boxes, head = BoxBatch.pad(frames), maps.center
    cell = GRID.cell_index(boxes.values[..., :2])
    flat = head.heatmap_logit.flatten(2)
    count = boxes.labels.shape[1]
    return DetectionTargets(
        box=decode_boxes(codes_at(head, boxes.labels, cell), cell, GRID),
        score=torch.linspace(0.9, 0.1, count).expand(len(frames), count),
        probability=flat.gather(2, cell[:, None].expand(-1, flat.shape[1], -1)).mT.sigmoid(),
        object=torch.where(boxes.valid, torch.arange(count), 0),
        iou=torch.full(boxes.labels.shape, iou),
        valid=boxes.valid,
    )
