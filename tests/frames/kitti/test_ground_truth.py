import math
from pathlib import Path

import pytest
import torch

from frames.detection_classes import KITTI_CLASSES
from frames.kitti.config import KittiConfig
from frames.kitti.ground_truth import ground_truth, reaches_into
from frames.kitti.labels import read_objects
from tests.frames.kitti.tiny_kitti import LABELS

CAR, PEDESTRIAN, CYCLIST = range(3)


def truth(tmp_path: Path, **changes: object) -> tuple[list[int], list[float]]:
    """Labels, and x of the boxes rounded to the labels' decimals."""
    path = tmp_path / "label.txt"
    path.write_text(LABELS)
    config = KittiConfig.model_validate({"root": tmp_path, "split": "train"} | changes)
    boxes = ground_truth(read_objects(path), config)
    return boxes.labels.tolist(), [round(float(x), 2) for x in boxes.values[:, 0]]


def test_the_rules_by_hand(tmp_path: Path):
    """Not: DontCare, the car truncated by .98, the cyclist 0.1 m beyond the range, the tram."""
    assert truth(tmp_path) == ([CAR, CAR, PEDESTRIAN, CYCLIST], [10, 20, 8, 60.4])


def test_a_box_is_nine_numbers_without_velocity(tmp_path: Path):
    (tmp_path / "label.txt").write_text(LABELS)
    boxes = ground_truth(
        read_objects(tmp_path / "label.txt"), KittiConfig(root=tmp_path, split="train")
    )
    expected = [10, -1, -0.25, 4, 1.6, 1.5, -(-1.57 + math.pi / 2), 0, 0]
    torch.testing.assert_close(boxes.values[0], torch.tensor(expected))


@pytest.mark.parametrize(
    ("changes", "x"),
    [
        ({"van_as_car": False}, [10, 8, 60.4]),
        ({"sitting_as_pedestrian": False}, [10, 20, 60.4]),
        ({"max_truncation": 0.99}, [10, 20, 8, 10, 60.4]),
        ({"max_truncation": 0.97}, [10, 8, 60.4]),
        ({"box_range": (0, -40, -3, 70, 40, 3)}, [10, 20, 8, 60.4, 60.6]),
        ({"classes": ("Cyclist",)}, [60.4]),
    ],
)
def test_each_switch(tmp_path: Path, changes: dict[str, object], x: list[float]):
    assert truth(tmp_path, **changes)[1] == x


def test_labels_index_the_configs_classes(tmp_path: Path):
    assert KITTI_CLASSES == ("Car", "Pedestrian", "Cyclist")
    assert truth(tmp_path, classes=("Cyclist", "Pedestrian"))[0] == [1, 0]


def test_no_objects_are_no_boxes(tmp_path: Path):
    assert len(ground_truth([], KittiConfig(root=tmp_path, split="train"))) == 0


def test_one_corner_inside_is_enough():
    limits = (0.0, 0.0, 0.0, 10.0, 10.0, 10.0)
    boxes = torch.tensor(
        [
            [11, 11, 11, 2, 2, 2, 0, 0, 0],  # touches the corner of the range
            [11, 11, 11, 1.9, 2, 2, 0, 0, 0],
            [5, 5, 5, 30, 30, 30, 0, 0, 0],  # around all of it: no corner inside
        ],
        dtype=torch.float32,
    )
    assert reaches_into(boxes, limits).tolist() == [True, False, False]


def test_the_rules_are_part_of_a_caches_fingerprint(tmp_path: Path):
    rules = KittiConfig(root=tmp_path, split="train").ground_truth_filter
    assert rules == {
        "classes": ["Car", "Pedestrian", "Cyclist"],
        "van_as_car": True,
        "sitting_as_pedestrian": True,
        "max_truncation": 0.98,
        "box_range": [2.0, -30.4, -3.0, 59.6, 30.4, 1.0],
    }
