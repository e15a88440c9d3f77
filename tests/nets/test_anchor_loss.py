import math

import pytest
import torch
from torch import Tensor

from frames.anchor_assign import BACKGROUND, IGNORED, Assignment, assign_anchors
from frames.anchor_code import encode_at_anchors
from frames.anchors import AnchorConfig
from frames.grid import BEVGrid
from nets.anchor_decode import AnchorDecodeConfig, decode
from nets.anchor_head import AnchorMaps
from nets.anchor_loss import (
    AnchorLossConfig,
    anchor_loss,
    code_distance,
    directed,
    direction,
    focal_loss,
)
from nets.suppression import rotated_keep

CONFIG = AnchorLossConfig()
SMALL = AnchorConfig(grid=BEVGrid(x_min=2, y_min=-8, cell_size=16 / 17, shape=(17, 17)))
ANCHORS = SMALL.boxes()
CARS = torch.tensor([[10.0, 0.3, -0.9, 3.7, 1.7, 1.5, 0.3], [5.0, -4.0, -1.0, 4.2, 1.5, 1.6, 2.5]])


def assigned(boxes: Tensor) -> Assignment:
    return assign_anchors(SMALL, ANCHORS, boxes, torch.zeros(len(boxes), dtype=torch.int64))


def perfect(boxes: Tensor) -> AnchorMaps:
    """What a student says that knows these cars."""
    own = assigned(boxes)
    logit = torch.full((1, SMALL.count, 3), -30.0)
    logit[0, own.positive, 0] = 30
    code = torch.zeros(1, SMALL.count, 7)
    side = torch.zeros(1, SMALL.count, 2)
    if len(boxes):
        code[0] = encode_at_anchors(boxes[own.box], ANCHORS)
        turn = direction(boxes[own.box, 6])
        side[0] = torch.nn.functional.one_hot(turn, 2) * 60.0 - 30
    return AnchorMaps(logit, code, side)


def noisy(frames: int, seed: int = 0) -> AnchorMaps:
    generator = torch.Generator().manual_seed(seed)

    def some(values: int) -> Tensor:
        shape = (frames, SMALL.count, values)
        return (0.3 * torch.randn(shape, generator=generator)).requires_grad_()

    return AnchorMaps(some(3), some(7), some(2))


def test_who_knows_has_no_loss():
    terms = anchor_loss(perfect(CARS), [assigned(CARS)], [CARS], ANCHORS, CONFIG)
    assert all(abs(term.item()) < 1e-5 for term in terms.values()), terms


def test_no_objects_leave_the_background_alone():
    maps = noisy(1)
    terms = anchor_loss(maps, [assigned(CARS[:0])], [CARS[:0]], ANCHORS, CONFIG)
    assert [terms[name].item() for name in ("box", "iou", "direction")] == [0, 0, 0]
    assert terms["classes"] > 0
    torch.stack(list(terms.values())).sum().backward()
    for part in (maps.logit, maps.code, maps.direction):
        assert part.grad is not None
        assert part.grad.isfinite().all()


def test_the_focal_loss_by_hand():
    logit = torch.tensor([[[0.0, 2.0], [1.0, -1.0], [5.0, 5.0]]])
    label = torch.tensor([[1, BACKGROUND, IGNORED]])
    p, q = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-1))
    right = 0.25 * (1 - p) ** 2 * -math.log(p) + 0.75 * 0.5**2 * -math.log(0.5)
    wrong = 0.75 * q**2 * -math.log(1 - q) + 0.75 * (1 - q) ** 2 * -math.log(q)
    assert focal_loss(logit, label, CONFIG)[0].tolist() == pytest.approx([right, wrong, 0])


def test_the_codes_distance_by_hand():
    code, target = torch.zeros(1, 7), torch.zeros(1, 7)
    target[0, 0] = 0.05
    target[0, 3] = -0.5
    target[0, 6] = 3 * math.pi / 4
    # Below a ninth it is half the square over it, above the difference less half a ninth.
    wanted = 0.05**2 * 9 / 2 + (0.5 - 1 / 18) + (math.sin(3 * math.pi / 4) - 1 / 18)
    assert code_distance(code, target, CONFIG).item() == pytest.approx(wanted, abs=1e-6)


def literal(maps: AnchorMaps, own: list[Assignment], boxes: list[Tensor]) -> dict[str, float]:
    """LIGA-Stereo's sums, anchor by anchor; IoU apart, which has tests of its own."""
    positives = sum(int(frame.positive.sum()) for frame in own) / len(own)
    totals = {"classes": 0.0, "box": 0.0, "direction": 0.0}
    for b, frame in enumerate(own):
        for n in range(SMALL.count):
            label = int(frame.label[n])
            if label == IGNORED:
                continue
            for c in range(3):
                p = maps.logit[b, n, c].sigmoid().item()
                hit = c == label
                totals["classes"] += (
                    0.25 * (1 - p) ** 2 * -math.log(p) if hit else 0.75 * p**2 * -math.log(1 - p)
                )
            if label < 0:
                continue
            code = maps.code[b, n].tolist()
            wanted = encode_at_anchors(boxes[b][frame.box[n]], ANCHORS[n]).tolist()
            gaps = [x - y for x, y in zip(code[:6], wanted[:6], strict=True)]
            gaps.append(math.sin(code[6] - wanted[6]))
            for gap in map(abs, gaps):
                totals["box"] += gap**2 * 4.5 if gap < 1 / 9 else gap - 1 / 18
            yaw = boxes[b][frame.box[n], 6].item()
            side = math.floor(((yaw - 0.78539) % (2 * math.pi)) / math.pi)
            a, z = maps.direction[b, n].tolist()
            totals["direction"] += math.log(math.exp(a) + math.exp(z)) - (a, z)[side]
    few = max(positives, 10)
    return {
        "classes": totals["classes"] / (positives + 10) / len(own),
        "box": 0.5 * totals["box"] / few / len(own),
        "direction": 0.2 * totals["direction"] / few / len(own),
    }


def test_the_terms_are_the_specification_read_literally():
    boxes = [CARS, CARS[:1]]
    own = [assigned(frame) for frame in boxes]
    maps = noisy(2)
    terms = anchor_loss(maps, own, boxes, ANCHORS, CONFIG)
    for name, value in literal(maps, own, boxes).items():
        assert terms[name].item() == pytest.approx(value, rel=1e-5), name


def test_a_heading_and_its_half_turn_go_round():
    yaw = torch.linspace(-7, 7, 101)
    found = directed(yaw, direction(yaw))
    assert ((found - yaw) / math.tau - ((found - yaw) / math.tau).round()).abs().max() < 1e-5
    # The reverse heading lies in the other half turn.
    assert torch.equal(direction(yaw + math.pi), 1 - direction(yaw))


def test_the_half_turns_begin_at_a_quarter_of_pi():
    yaw = torch.tensor([0.785, 0.786, 0.786 + math.pi, 0.0, -3.0])
    assert direction(yaw).tolist() == [1, 0, 1, 1, 0]


def test_who_knows_detects_the_cars():
    (found,) = decode(perfect(CARS), ANCHORS, AnchorDecodeConfig())
    assert found.labels.tolist() == [0, 0]
    order = found.boxes[:, 0].argsort(descending=True)
    assert torch.allclose(found.boxes[order, :6], CARS[:, :6], atol=1e-4)
    turn = (found.boxes[order, 6] - CARS[:, 6]) / math.tau
    assert (turn - turn.round()).abs().max() < 1e-5
    assert (found.boxes[:, 7:] == 0).all()


def test_classes_do_not_suppress_each_other_and_the_best_are_kept():
    maps = perfect(CARS)
    maps.logit[..., 1] = maps.logit[..., 0] - 28
    both = decode(maps, ANCHORS, AnchorDecodeConfig())[0]
    assert sorted(both.labels.tolist()) == [0, 0, 1, 1]
    assert both.scores.tolist() == sorted(both.scores.tolist(), reverse=True)
    two = decode(maps, ANCHORS, AnchorDecodeConfig(kept=2))[0]
    assert two.labels.tolist() == [0, 0]
    assert len(decode(maps, ANCHORS, AnchorDecodeConfig(score_threshold=0.95))[0].scores) == 2


def test_nothing_is_detected_in_nothing():
    (found,) = decode(perfect(CARS[:0]), ANCHORS, AnchorDecodeConfig())
    assert found.boxes.shape == (0, 9)


def test_suppression_by_hand():
    boxes = torch.tensor([[x, 0, 0, 4.0, 2.0, 1.0, 0.0] for x in (0.0, 2.0, 4.0, 0.1)])
    # A third of the first overlaps the second, which, dropped, leaves the third alone.
    assert rotated_keep(boxes, 0.3, 9).tolist() == [True, False, True, False]
    assert rotated_keep(boxes, 0.34, 9).tolist() == [True, True, True, False]
    assert rotated_keep(boxes, 0.3, 1).tolist() == [True, False, False, False]
