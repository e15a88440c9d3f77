import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from frames.box_code import encode_boxes
from frames.boxes import BoxBatch, Boxes3D
from frames.grid import BEVGrid
from frames.heatmap import center_heatmap
from nets.center_head import CenterHeadConfig, CenterMaps
from nets.center_loss import CenterLossConfig, box_loss, center_loss, heatmap_loss, task_peaks

GRID = BEVGrid(x_min=-6.4, y_min=-4.8, cell_size=0.8, shape=(12, 16))
CLASS_TASK = torch.tensor(CenterHeadConfig().class_task)


def random_maps(seed: int, batch: int = 2) -> CenterMaps:
    generator = torch.Generator().manual_seed(seed)
    return CenterMaps(
        (torch.randn(batch, 10, 12, 16, generator=generator) * 3).requires_grad_(),
        torch.randn(batch, 6, 10, 12, 16, generator=generator).requires_grad_(),
        CLASS_TASK,
    )


def random_boxes(seed: int, count: int) -> Boxes3D:
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(count, 9, generator=generator) * 4 + 0.5
    values[:, :2] = (values[:, :2] - 2.5) * 4
    return Boxes3D(values, torch.randint(0, 10, (count,), generator=generator))


def literal_loss(maps: CenterMaps, boxes: BoxBatch, weights: Tensor):
    """mmdet3d's CenterHead loss, one number at a time."""
    target = center_heatmap(boxes, GRID, 10)
    codes = encode_boxes(boxes.values, GRID)
    heat, reg = torch.zeros(()), torch.zeros(())
    for task in range(6):
        classes = [c for c in range(10) if CLASS_TASK[c] == task]
        wanted = target[:, classes]
        prob = maps.heatmap_logit[:, classes].sigmoid().clamp(1e-4, 1 - 1e-4)
        peaks = max(1, int((wanted == 1).sum()))
        term = torch.where(
            wanted == 1,
            -(prob + 1e-12).log() * (1 - prob) ** 2,
            -(1 - prob + 1e-12).log() * prob**2 * (1 - wanted) ** 4,
        )
        heat += term.sum() / peaks
        found, total = 0, torch.zeros(())
        for frame, slot in boxes.valid.nonzero().tolist():
            x, y = boxes.values[frame, slot, :2].tolist()
            col, row = math.floor((x + 6.4) / 0.8), math.floor((y + 4.8) / 0.8)
            if boxes.labels[frame, slot] not in classes or not (0 <= col < 16 and 0 <= row < 12):
                continue
            found += 1
            gap = maps.box_code[frame, task, :, row, col] - codes[frame, slot]
            total += (weights * gap.abs()).sum()
        reg += 0.25 * total / max(found, 1e-4)
    return heat, reg


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), counts=st.tuples(st.integers(0, 12), st.integers(0, 12)))
def test_equals_a_literal_reading_of_the_specification(seed: int, counts: tuple[int, int]) -> None:
    maps = random_maps(seed)
    boxes = BoxBatch.pad([random_boxes(seed + i, count) for i, count in enumerate(counts)])
    config = CenterLossConfig()
    terms = center_loss(maps, boxes, GRID, config)
    heat, reg = literal_loss(maps, boxes, torch.tensor([1.0] * 8 + [0.2, 0.2]))
    torch.testing.assert_close(terms["heatmap"], heat, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(terms["box"], reg, rtol=1e-5, atol=1e-5)


def test_heatmap_loss_by_hand() -> None:
    # Probability 1/2 everywhere. The peak gives ln2/4; target 1/2 gives ln2/4/16; 0 gives ln2/4.
    target = torch.tensor([1.0, 0.5, 0.0]).view(1, 1, 1, 3)
    loss = heatmap_loss(torch.zeros(1, 1, 1, 3), target, torch.ones(1))
    assert float(loss) == pytest.approx(math.log(2) / 4 * (2 + 1 / 16), rel=1e-6)


def test_box_loss_by_hand_divides_by_each_tasks_own_objects() -> None:
    code, target = torch.zeros(1, 4, 10), torch.zeros(1, 4, 10)
    target[0, :, 0] = torch.tensor([1.0, 3.0, 10.0, 1000.0])
    task, valid = torch.tensor([[0, 0, 5, 5]]), torch.tensor([[True, True, True, False]])
    assert float(box_loss(code, target, task, valid, torch.full((10,), 2.0))) == 2 * (2 + 10)


def test_peaks_are_counted_per_task() -> None:
    heatmap = torch.zeros(2, 10, 3, 3)
    heatmap[0, 1, 0, 0] = heatmap[1, 2, 1, 1] = heatmap[1, 0, 2, 2] = 1
    heatmap[0, 5, 1, 1] = 0.999
    assert task_peaks(heatmap, CLASS_TASK).tolist() == [1, 2, 2, 0, 0, 0, 0, 0, 0, 0]


def test_no_boxes_and_boxes_off_the_grid_give_the_same_finite_loss_and_gradient() -> None:
    off = Boxes3D(torch.tensor([[100.0, 0, 0, 4, 2, 1, 0, 0, 0]]), torch.tensor([0]))
    maps = random_maps(0)
    none = center_loss(maps, BoxBatch.pad([Boxes3D.empty()] * 2), GRID, CenterLossConfig())
    away = center_loss(maps, BoxBatch.pad([off, off]), GRID, CenterLossConfig())
    assert none["box"].item() == away["box"].item() == 0
    assert none["heatmap"].item() == away["heatmap"].item() > 0
    total = none["heatmap"] + none["box"]
    logit, code = torch.autograd.grad(total, (maps.heatmap_logit, maps.box_code))
    assert logit.isfinite().all()
    assert not code.any()


def test_logits_are_left_as_they_were() -> None:
    maps = random_maps(3)
    before = maps.heatmap_logit.detach().clone()
    center_loss(maps, BoxBatch.pad([random_boxes(0, 5)] * 2), GRID, CenterLossConfig())
    assert torch.equal(maps.heatmap_logit, before)


def test_extreme_logits_stay_finite() -> None:
    maps = random_maps(3)
    wild = CenterMaps(maps.heatmap_logit * 1e4, maps.box_code, maps.class_task)
    terms = center_loss(wild, BoxBatch.pad([random_boxes(0, 5)] * 2), GRID, CenterLossConfig())
    assert all(term.isfinite() for term in terms.values())


def test_perfect_maps_have_no_box_loss() -> None:
    boxes = Boxes3D(torch.tensor([[1.0, 2.0, 0.5, 4, 2, 1.5, 0.7, 3, -1]]), torch.tensor([7]))
    code = encode_boxes(boxes.values, GRID)[0].view(1, 1, 10, 1, 1).expand(1, 6, 10, 12, 16)
    maps = CenterMaps(torch.zeros(1, 10, 12, 16), code, CLASS_TASK)
    terms = center_loss(maps, BoxBatch.pad([boxes]), GRID, CenterLossConfig())
    assert float(terms["box"]) == 0


def test_code_weights_of_the_wrong_length_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 10 items"):
        CenterLossConfig(code=(1.0,) * 9)
