import pytest
import torch

from frames.box_code import encode_boxes
from frames.grid import BEVGrid
from nets.center_head import CenterHeadConfig, CenterMaps
from nets.iou_aware_decode import IouAwareDecodeConfig, decode_iou_aware, suppression_scores

GRID = BEVGrid(x_min=-12.8, y_min=-9.6, cell_size=0.8, shape=(24, 32))
CLASS_TASK = torch.tensor(CenterHeadConfig().class_task)
CONFIG = IouAwareDecodeConfig()


def maps_of(frames: list[list[tuple[list[float], int, float, float]]]) -> CenterMaps:
    """Maps that say exactly the given (box, label, logit, IoU), everything else at logit -10."""
    logit = torch.full((len(frames), 10, 24, 32), -10.0)
    code = torch.zeros(len(frames), 6, 11, 24, 32)
    for frame, objects in enumerate(frames):
        for values, label, score, iou in objects:
            box = torch.tensor(values)
            row, col = divmod(int(GRID.cell_index(box[:2])), 32)
            logit[frame, label, row, col] = score
            code[frame, CLASS_TASK[label], :10, row, col] = encode_boxes(box, GRID)
            code[frame, CLASS_TASK[label], 10, row, col] = 2 * iou - 1
    return CenterMaps(logit, code, CLASS_TASK)


def car(x: float, y: float = 0.4, z: float = 0.0) -> list[float]:
    return [x, y, z, 4.0, 2.0, 1.5, 0.0, 3.0, -1.0]


def test_exact_maps_decode_to_their_boxes_best_heatmap_first():
    cone = [-11.0, 8.8, -0.5, 0.4, 0.3, 1.0, -0.2, 0.0, 0.0]
    first, second = decode_iou_aware(
        maps_of([[(car(3.0), 0, 1.0, 0.9), (cone, 9, 2.0, 0.1)], []]), GRID, CONFIG
    )
    torch.testing.assert_close(first.boxes, torch.tensor([cone, car(3.0)]), rtol=1e-4, atol=1e-4)
    assert first.labels.tolist() == [9, 0]
    torch.testing.assert_close(first.scores, torch.tensor([2.0, 1.0]).sigmoid())
    assert second.boxes.shape == (0, 9)


def test_the_said_iou_decides_who_stays_and_the_heatmap_what_it_scores():
    """1 m apart, 4 m long: IoU 0.6. The second has less score, but says it fits better.

    0.7 and 0.6 with IoU 0.3 and 0.9: 0.7^0.35 0.3^0.65 = 0.404 < 0.6^0.35 0.9^0.65 = 0.781.
    """
    logit = torch.tensor([0.7, 0.6]).logit().tolist()
    objects = [(car(0.4), 0, logit[0], 0.3), (car(1.4), 0, logit[1], 0.9)]
    (found,) = decode_iou_aware(maps_of([objects]), GRID, CONFIG)
    assert found.boxes[:, 0].tolist() == pytest.approx([1.4])
    assert found.scores.tolist() == pytest.approx([0.6])
    (found,) = decode_iou_aware(maps_of([objects]), GRID, IouAwareDecodeConfig(iou_power=0))
    assert found.boxes[:, 0].tolist() == pytest.approx([0.4])


def test_suppression_scores_by_hand():
    said = torch.tensor([0.0, 1.0, -3.0, 5.0])
    found = suppression_scores(torch.full((4,), 0.5), said, 0.65)
    # IoU 0.5, 1, cut to 0, cut to 1; 0.5^0.35 = 0.7846.
    torch.testing.assert_close(found, torch.tensor([0.5, 0.7846, 0.0, 0.7846]), rtol=0, atol=1e-4)


def test_suppression_is_by_turned_boxes_within_a_task():
    """Two cars side by side, 1.9 m apart and 2 m wide: IoU 0.1 / 3.9 = 0.03 stays."""
    beside = [(car(0.4), 0, 1.0, 0.8), (car(0.4, 2.3), 0, 0.5, 0.8)]
    # Across the first one: 2 x 2 m of 8 + 8 - 4 shared, 0.33.
    across = car(0.4, 2.0)
    across[6] = torch.pi / 2
    crossing = [(car(0.4), 0, 1.0, 0.8), (across, 0, 0.5, 0.8)]
    other_task = [(car(0.4), 0, 1.0, 0.8), (car(0.5), 1, 0.5, 0.8)]
    found = decode_iou_aware(maps_of([beside, crossing, other_task]), GRID, CONFIG)
    assert [len(frame.scores) for frame in found] == [2, 1, 2]


def test_low_scores_far_centres_surplus_and_absurd_sizes():
    objects = [
        (car(-9.0), 0, 3.0, 1.0),
        (car(-3.0), 0, -2.5, 1.0),
        (car(3.0, z=11.0), 0, 2.0, 1.0),
        (car(9.0), 0, 1.0, 1.0),
    ]
    maps = maps_of([objects])
    assert decode_iou_aware(maps, GRID, CONFIG)[0].boxes[:, 0].round().tolist() == [-9.0, 9.0]
    for limit in ({"kept": 1}, {"candidates": 1}):
        config = IouAwareDecodeConfig(**limit)
        assert len(decode_iou_aware(maps, GRID, config)[0].scores) == 1
    maps.box_code[0, 0, 3:6] = 40.0
    (found,) = decode_iou_aware(maps, GRID, CONFIG)
    assert found.boxes[0, 3:6].tolist() == [30.0] * 3
