"""The IoU-aware head's loss: worked by hand, by properties, and against a literal reading."""

import math

import pytest
import torch
from torch import Tensor

from frames.box_code import encode_boxes_at
from frames.boxes import BoxBatch, Boxes3D
from frames.grid import BEVGrid
from nets.center_head import CenterHeadConfig, CenterMaps
from nets.iou_aware_loss import IouAwareLoss, IouAwareLossConfig, axis_aligned_iou, task_losses
from nets.nearest_cells import nearest_cells

GRID = BEVGrid(x_min=-8.0, y_min=-6.0, cell_size=1.0, shape=(12, 16))
CLASS_TASK = torch.tensor(CenterHeadConfig().class_task)
CONFIG = IouAwareLossConfig()
# An uncertainty of 1 adds ln 2 to each of three terms in each of six tasks.
NOTHING = 6 * math.log(2)


def boxes_of(*frames: list[tuple[list[float], int]]) -> BoxBatch:
    return BoxBatch.pad(
        [
            Boxes3D(
                torch.tensor([values for values, _ in objects]).reshape(-1, 9).float(),
                torch.tensor([label for _, label in objects]).long(),
            )
            for objects in frames
        ]
    )


CAR = ([1.3, 2.4, 0.5, 4.0, 2.0, 1.5, 0.3, 3.0, -1.0], 0)
BUS = ([-4.0, -2.0, 1.0, 10.0, 2.8, 3.4, -2.2, 0.5, 0.0], 3)
TRAILER = ([-2.5, -2.2, 0.4, 9.0, 2.5, 3.0, 1.6, 0.0, 0.2], 4)
CONE = ([6.4, -5.0, 0.1, 0.4, 0.3, 1.0, 3.0, 0.0, 0.0], 9)
SCENE = boxes_of([CAR, BUS, TRAILER], [CONE, CAR], [])


def random_maps(batch: int, seed: int = 0) -> CenterMaps:
    rng = torch.Generator().manual_seed(seed)
    logit = 2 * torch.randn(batch, 10, *GRID.shape, generator=rng) - 2
    code = torch.randn(batch, 6, 11, *GRID.shape, generator=rng)
    return CenterMaps(logit.requires_grad_(), code.requires_grad_(), CLASS_TASK)


def perfect_maps(boxes: BoxBatch) -> CenterMaps:
    """What a head says that knows the boxes and its own certainty."""
    batch = len(boxes.labels)
    cells = nearest_cells(boxes, GRID, CLASS_TASK, 9)
    logit = 80 * cells.heatmap(boxes, GRID, 10) - 40
    code = torch.zeros(batch, 6, 11, GRID.num_cells)
    target = encode_boxes_at(boxes.values[cells.frame, cells.box], cells.cell, GRID)
    code[cells.frame, cells.task, :10, cells.cell] = target
    code[:, :, 10] = 1
    return CenterMaps(logit, code.view(batch, 6, 11, *GRID.shape), CLASS_TASK)


def test_one_positive_cell_by_hand():
    """One car, one claimed cell, half a metre and 10 % of its width off; the rest silent.

    Heatmap: p = 0.5 at the cell: 0.25 * 0.25 * ln 2. Others of the task: p clamped to 1e-4, next
    to nothing. Box: |0.5| + |ln 1.1|. IoU along x: 3.5 / 4.5 of the footprint's length, width
    2 of 2.2: shared 3.5 * 2 * 1.5 = 10.5 of 12 + 13.2 - 10.5 = 14.7. Said IoU 0: off by
    |0 - (2 IoU_bev - 1)| with IoU_bev = 7 / (8 + 8.8 - 7) = 7 / 9.8 (both are the same here).
    """
    values = [0.0, 0.0, 0.5, 4.0, 2.0, 1.5, 0.0, 0.0, 0.0]
    boxes = boxes_of([(values, 0)])
    cell = int(GRID.cell_index(torch.tensor([0.0, 0.0])))
    row, col = divmod(cell, 16)
    logit = torch.full((1, 10, *GRID.shape), -40.0)
    logit[0, 0, row, col] = 0.0
    code = torch.zeros(1, 6, 11, *GRID.shape)
    found = torch.tensor(values) + torch.tensor([0.5, 0, 0, 0, 0.2, 0, 0, 0, 0])
    code[0, 0, :10, row, col] = encode_boxes_at(found, torch.tensor(cell), GRID)
    losses = task_losses(
        CenterMaps(logit, code, CLASS_TASK), boxes, GRID, IouAwareLossConfig(cells=1)
    )
    assert float(losses.heatmap[0]) == pytest.approx(0.0625 * math.log(2), abs=1e-5)
    assert float(losses.box[0]) == pytest.approx((0.5 + math.log(1.1)) / 1.0001, rel=1e-5)
    assert float(losses.iou[0]) == pytest.approx((2 * 7 / 9.8 - 1) / 1.0001, rel=1e-5)
    assert float(losses.overlap[0]) == pytest.approx(1 - 10.5 / 14.7, rel=1e-5)
    assert losses.box[1:].tolist() == [0] * 5


def test_swapped_extents_by_hand():
    """y takes the height, z the width: shared 4 x 1.5 x 1 of two 4 x 2 x 1.5 boxes 1 m apart."""
    first = torch.tensor([[0.0, 0, 0, 4, 2, 1.5, 0.7]])
    second = torch.tensor([[0.0, 0, 1, 4, 2, 1.5, -0.7]])
    plain, swapped = (float(axis_aligned_iou(first, second, swapped=s)) for s in (False, True))
    assert plain == pytest.approx(4 * 2 * 0.5 / (24 - 4))
    assert swapped == pytest.approx(4 * 1.5 * 1 / (24 - 6))


def test_uncertainties_weigh_three_terms_in_every_task():
    maps, loss = random_maps(3), IouAwareLoss(CONFIG)
    raw = task_losses(maps, SCENE, GRID, CONFIG)
    with torch.no_grad():
        loss.uncertainty.copy_(torch.tensor([0.5, 2.0, 3.0]))
    terms = loss(maps, SCENE, GRID)
    for name, p in (("heatmap", 0.5), ("box", 2.0), ("iou", 3.0)):
        expected = 0.5 / p**2 * getattr(raw, name).sum() + 6 * math.log(1 + p**2)
        torch.testing.assert_close(terms[name], expected)


def test_overlap_counts_only_where_boxes_are_nearly_right():
    loss, maps = IouAwareLoss(CONFIG), perfect_maps(SCENE)
    code = maps.box_code.clone()
    code[:, 0, 2] += 0.5  # cars: a box term of 0.5
    code[:, 2, 2] += 1.5  # buses and trailers: of 1.5
    near = CenterMaps(maps.heatmap_logit, code, CLASS_TASK)
    raw = task_losses(near, SCENE, GRID, CONFIG)
    assert float(raw.box[0]) == pytest.approx(0.5, rel=1e-4)
    assert float(raw.box[2]) == pytest.approx(1.5, rel=1e-4)
    assert min(float(raw.overlap[0]), float(raw.overlap[2])) > 0.1
    assert float(loss(near, SCENE, GRID)["overlap"]) == pytest.approx(5 * float(raw.overlap[0]))


def test_a_perfect_head_reaches_the_least_loss():
    terms = IouAwareLoss(CONFIG)(perfect_maps(SCENE), SCENE, GRID)
    assert terms["heatmap"].item() == pytest.approx(NOTHING, abs=1e-3)
    assert terms["box"].item() == pytest.approx(NOTHING, abs=1e-5)
    assert terms["iou"].item() == pytest.approx(NOTHING, abs=1e-4)
    assert terms["overlap"].item() == pytest.approx(0, abs=1e-4)
    worse = IouAwareLoss(CONFIG)(random_maps(3), SCENE, GRID)
    assert all(worse[name].item() > terms[name].item() for name in ("heatmap", "box", "iou"))


def test_without_boxes_the_gradient_is_finite_and_the_code_has_none():
    maps, loss = random_maps(2), IouAwareLoss(CONFIG)
    terms = loss(maps, boxes_of([], []), GRID)
    assert [terms[name].item() for name in ("box", "iou")] == pytest.approx([NOTHING] * 2)
    assert terms["overlap"].item() == 0
    torch.stack(list(terms.values())).sum().backward()
    assert maps.heatmap_logit.grad is not None
    assert maps.heatmap_logit.grad.isfinite().all()
    assert maps.box_code.grad is not None
    assert (maps.box_code.grad == 0).all()


def test_wild_maps_have_a_finite_loss_and_gradient():
    wild = random_maps(3)
    maps = CenterMaps(wild.heatmap_logit * 1e4, wild.box_code * 60, CLASS_TASK)
    total = torch.stack(list(IouAwareLoss(CONFIG)(maps, SCENE, GRID).values())).sum()
    total.backward()
    assert total.isfinite()
    assert wild.heatmap_logit.grad is not None
    assert wild.heatmap_logit.grad.isfinite().all()
    assert wild.box_code.grad is not None
    assert wild.box_code.grad.isfinite().all()


def test_a_head_that_says_nothing_has_a_finite_gradient():
    code = torch.zeros(3, 6, 11, *GRID.shape, requires_grad=True)
    maps = CenterMaps(torch.zeros(3, 10, *GRID.shape), code, CLASS_TASK)
    torch.stack(list(IouAwareLoss(CONFIG)(maps, SCENE, GRID).values())).sum().backward()
    assert code.grad is not None
    assert code.grad.isfinite().all()


def test_padding_is_ignored_and_a_batch_is_the_sum_over_the_count_of_its_cells():
    one, two = boxes_of([CAR]), boxes_of([CAR, BUS, TRAILER])
    maps = random_maps(2)
    both = task_losses(maps, boxes_of([CAR], [CAR, BUS, TRAILER]), GRID, CONFIG)
    parts = [
        task_losses(
            CenterMaps(maps.heatmap_logit[b : b + 1], maps.box_code[b : b + 1], CLASS_TASK),
            own,
            GRID,
            CONFIG,
        )
        for b, own in enumerate((one, two))
    ]
    # Each frame has nine cells of a car; buses and trailers are in the second only.
    mean = (parts[0].box[0] + parts[1].box[0]) / 2
    torch.testing.assert_close(both.box[0], mean, rtol=1e-4, atol=0)
    torch.testing.assert_close(both.overlap[2], parts[1].overlap[2])


def literal(maps: CenterMaps, boxes: BoxBatch, *, swapped: bool) -> dict[str, list[float]]:
    """The released loss in double precision and slow loops, given the positive cells."""
    cells = nearest_cells(boxes, GRID, CLASS_TASK, 9)
    positives = list(
        zip(*(getattr(cells, n).tolist() for n in ("frame", "task", "cell", "box")), strict=True)
    )
    weights = [1.0] * 8 + [0.2] * 2
    found: dict[str, list[float]] = {"heatmap": [], "box": [], "iou": [], "overlap": []}
    for task in range(6):
        own = [entry for entry in positives if entry[1] == task]
        hot = {(f, int(boxes.labels[f, b]), c) for f, _, c, b in own}
        total = 0.0
        for f in range(len(boxes.labels)):
            for label in range(10):
                if CLASS_TASK[label] != task:
                    continue
                for c, z in enumerate(maps.heatmap_logit[f, label].flatten().tolist()):
                    p = min(max(1 / (1 + math.exp(-z)), 1e-4), 1 - 1e-4)
                    if (f, label, c) in hot:
                        total -= 0.25 * (1 - p) ** 2 * math.log(p)
                    else:
                        total -= 0.75 * p**2 * math.log(1 - p + 1e-4)
        box = iou = overlap = 0.0
        for f, t, c, b in own:
            code = maps.box_code[f, t].flatten(1)[:, c].double()
            truth = boxes.values[f, b].double()
            corner = torch.tensor([-8.0 + c % 16, -6.0 + c // 16]).double()
            target = [
                *(truth[:2] - corner).tolist(),
                float(truth[2]),
                *truth[3:6].log().tolist(),
                math.sin(truth[6]),
                math.cos(truth[6]),
                *truth[7:].tolist(),
            ]
            box += sum(
                w * abs(float(x) - y) for w, x, y in zip(weights, code[:10], target, strict=True)
            )
            mine, theirs = decoded(code), decoded(torch.tensor(target).double())
            iou += abs(float(code[10]) - 2 * (nearest_bev(mine, theirs) - 0.5))
            overlap += 1 - boxes_3d(mine, theirs, swapped=swapped)
        found["heatmap"].append(total / max(len(hot), 1))
        found["box"].append(box / (len(own) + 1e-4))
        found["iou"].append(iou / (len(own) + 1e-4))
        found["overlap"].append(overlap / max(len(own), 1))
    return found


def decoded(code: Tensor) -> list[float]:
    size = [min(max(math.exp(value), 0.001), 30) for value in code[3:6].tolist()]
    return [*code[:3].tolist(), *size, math.atan2(code[6], code[7])]


def nearest_bev(first: list[float], second: list[float]) -> float:
    def corners(box: list[float]) -> tuple[float, float, float, float]:
        x, y, _, length, width, _, yaw = box
        turned = abs(yaw - math.floor(yaw / math.pi + 0.5) * math.pi) >= math.pi / 4
        dx, dy = (width, length) if turned else (length, width)
        return x - dx / 2, y - dy / 2, x + dx / 2, y + dy / 2

    a, b = corners(first), corners(second)
    shared = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    area = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return shared / max(sum(area) - shared, 1e-6)


def boxes_3d(first: list[float], second: list[float], *, swapped: bool) -> float:
    extents = (3, 5, 4) if swapped else (3, 4, 5)
    shared = 1.0
    for axis, extent in enumerate(extents):
        high = min(box[axis] + box[extent] / 2 for box in (first, second))
        low = max(box[axis] - box[extent] / 2 for box in (first, second))
        shared *= max(high - low, 1e-3)
    volume = [max(box[3] * box[4] * box[5], 1e-3) for box in (first, second)]
    return min(max(shared / (sum(volume) - shared), 0), 1)


@pytest.mark.parametrize("swapped", [False, True])
def test_it_equals_a_literal_reading(swapped: bool):
    rough = random_maps(3, seed=4)
    # Boxes near the true ones, so that overlaps are not all nothing.
    code = perfect_maps(SCENE).box_code + 0.2 * rough.box_code.detach()
    maps = CenterMaps(rough.heatmap_logit.detach(), code, CLASS_TASK)
    found = task_losses(maps, SCENE, GRID, IouAwareLossConfig(swapped_extents=swapped))
    for name, values in literal(maps, SCENE, swapped=swapped).items():
        got: Tensor = getattr(found, name)
        torch.testing.assert_close(got, torch.tensor(values), rtol=2e-6, atol=1e-6)
