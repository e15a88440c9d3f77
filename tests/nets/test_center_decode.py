import pytest
import torch

from frames.box_code import encode_boxes
from frames.grid import BEVGrid
from nets.center_decode import CenterDecodeConfig, decode
from nets.center_head import CenterHeadConfig, CenterMaps

GRID = BEVGrid(x_min=-12.8, y_min=-9.6, cell_size=0.8, shape=(24, 32))
CLASS_TASK = torch.tensor(CenterHeadConfig().class_task)


def maps_of(frames: list[list[tuple[list[float], int, float]]]) -> CenterMaps:
    """Maps that say exactly the given (box, label, logit), everything else at logit -10."""
    logit = torch.full((len(frames), 10, 24, 32), -10.0)
    code = torch.zeros(len(frames), 6, 10, 24, 32)
    for frame, objects in enumerate(frames):
        for values, label, score in objects:
            box = torch.tensor(values)
            row, col = divmod(int(GRID.cell_index(box[:2])), 32)
            logit[frame, label, row, col] = score
            code[frame, CLASS_TASK[label], :, row, col] = encode_boxes(box, GRID)
    return CenterMaps(logit, code, CLASS_TASK)


def test_exact_maps_decode_to_their_boxes_best_first() -> None:
    car = [3.3, -2.1, 0.4, 4.5, 1.9, 1.6, 2.5, 3.0, -1.0]
    cone = [-11.0, 8.8, -0.5, 0.4, 0.3, 1.0, -0.2, 0.0, 0.0]
    bus = [0.1, 0.2, 0.0, 11.0, 3.0, 3.5, -3.0, 0.5, 0.5]
    first, second, third = decode(
        maps_of([[(car, 0, 1.0), (cone, 9, 2.0)], [], [(bus, 3, 0.0)]]), GRID, CenterDecodeConfig()
    )
    torch.testing.assert_close(first.boxes, torch.tensor([cone, car]), rtol=1e-4, atol=1e-4)
    assert first.labels.tolist() == [9, 0]
    torch.testing.assert_close(first.scores, torch.tensor([2.0, 1.0]).sigmoid())
    assert len(second.scores) == 0
    assert second.boxes.shape == (0, 9)
    torch.testing.assert_close(third.boxes, torch.tensor([bus]), rtol=1e-4, atol=1e-4)


def test_thresholds_are_squared_metres_and_act_within_a_task_whatever_the_class() -> None:
    def box(x: float) -> list[float]:
        return [x, 0.4, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]

    # Cars 1.9 m apart: nearer than 2 m = sqrt(4), so the weaker one goes; at 2.1 m it stays.
    near = [(box(0.4), 0, 2.0), (box(2.3), 0, 1.0)]
    far = [(box(0.4), 0, 2.0), (box(2.5), 0, 1.0)]
    # Truck and construction vehicle share a task (sqrt(12) m); truck and car do not.
    mixed = [(box(0.4), 1, 2.0), (box(2.3), 2, 1.0), (box(0.4), 0, 0.0)]
    found = [
        d.labels.tolist() for d in decode(maps_of([near, far, mixed]), GRID, CenterDecodeConfig())
    ]
    assert found == [[0], [0, 0], [1, 0]]


def test_low_scores_far_centres_and_surplus_detections_are_dropped() -> None:
    def box(x: float, z: float = 0.0) -> list[float]:
        return [x, 0.4, z, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]

    objects = [
        (box(-9.0), 0, 3.0),
        (box(-3.0), 0, -2.5),
        (box(3.0, z=11.0), 0, 2.0),
        (box(9.0), 0, 1.0),
    ]
    maps = maps_of([objects])
    assert decode(maps, GRID, CenterDecodeConfig())[0].boxes[:, 0].round().tolist() == [-9.0, 9.0]
    assert len(decode(maps, GRID, CenterDecodeConfig(kept=1))[0].scores) == 1
    assert len(decode(maps, GRID, CenterDecodeConfig(candidates=1))[0].scores) == 1
    low = CenterDecodeConfig(score_threshold=0.05, centre_max=(61.2, 61.2, 12.0))
    assert len(decode(maps, GRID, low)[0].scores) == 4


def test_a_threshold_for_each_task_is_required() -> None:
    config = CenterDecodeConfig(circle_squared=(1.0, 2.0))
    with pytest.raises(ValueError, match="2 circle thresholds for a head of 6 tasks"):
        decode(maps_of([[]]), GRID, config)
