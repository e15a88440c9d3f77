import math
from pathlib import Path

import pytest
import torch

from frames.camera_view import image_bboxes
from frames.detection_classes import KITTI_CLASSES
from frames.detections import Detections
from frames.kitti.config import KittiConfig
from frames.kitti.labels import read_objects
from frames.kitti.reader import KittiFrame, read_frames
from frames.kitti.results import result_objects, write_results
from tests.frames.kitti.real_kitti import KITTI, real
from tests.frames.kitti.tiny_kitti import write_tiny


def detections(*boxes: list[float]) -> Detections:
    return Detections(
        torch.tensor(boxes).reshape(-1, 9),
        torch.arange(len(boxes)) % 3,
        torch.linspace(0.9, 0.1, len(boxes)),
    )


def test_a_detection_by_hand(tmp_path: Path):
    """Its near face, 2 m x 1 m, stands 8 m before the left camera; the second lies behind it."""
    (frame,) = read_frames(KittiConfig(root=write_tiny(tmp_path / "t"), split="train"))
    found = detections([10, 0.05, 0, 4, 2, 1, 0, 1, 1], [-10, 0, 0, 4, 2, 1, 0, 0, 0])
    (thing,) = result_objects(found, frame.view, KITTI_CLASSES)
    assert (thing.kind, thing.truncation, thing.occlusion) == ("Car", -1, -1)
    assert thing.bbox == pytest.approx((18 - 2.5, 9 - 1.25, 18 + 2.5, 9 + 1.25), abs=1e-5)
    assert thing.box == pytest.approx((10, 0.05, 0, 4, 2, 1, 0))
    assert thing.alpha == pytest.approx(-math.pi / 2 + math.atan2(0.05, 10))
    assert thing.score == float(found.scores[0])


def test_results_are_files_with_a_line_for_each_detection(tmp_path: Path):
    frames = read_frames(KittiConfig(root=write_tiny(tmp_path / "t"), split="trainval"))
    found = detections([10, 0.05, 0, 4, 2, 1, 0.3, 0, 0], [12, 0, 0, 0.8, 0.6, 1.7, -3, 0, 0])
    folder = tmp_path / "out" / "data"
    write_results(folder, frames, {"000003": found, "000000": Detections.empty()}, KITTI_CLASSES)
    assert read_objects(folder / "000000.txt") == ()
    back = read_objects(folder / "000003.txt")
    assert [thing.kind for thing in back] == ["Car", "Pedestrian"]
    for thing, box in zip(back, found.boxes.tolist(), strict=True):
        assert thing.box == pytest.approx(tuple(box[:7]), abs=1e-5)
    # The score is written in full, so that no order is lost.
    assert [thing.score for thing in back] == found.scores.double().tolist()


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, width) * max(0.0, height)
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in (a, b)]
    return both / (sum(areas) - both)


@real
def test_real_boxes_project_onto_their_real_2d_boxes():
    frames: list[KittiFrame] = read_frames(
        KittiConfig(root=KITTI, split="training", cameras=("image_2",))
    )
    overlaps = []
    for frame in frames:
        for thing in frame.objects:
            if thing.box is not None and thing.bbox[3] - thing.bbox[1] > 25:
                boxes = torch.tensor([[*thing.box, 0, 0]], dtype=torch.float64)
                bboxes, visible = image_bboxes(frame.view, boxes)
                assert visible.all()
                left, top, right, bottom = bboxes[0].tolist()
                overlaps.append(overlap((left, top, right, bottom), thing.bbox))
    assert len(overlaps) > 12
    assert min(overlaps) > 0.7
    assert sum(overlaps) / len(overlaps) > 0.88
