import math

import pytest
import torch
from torch import Tensor

from nets.atss import ImageObjects, assign_image_anchors
from nets.aux_head_2d import AuxHead2D, AuxHead2DConfig, ImageMaps, image_anchors
from nets.aux_loss_2d import (
    CENTRE_STD,
    SIZE_STD,
    AuxLoss2DConfig,
    centreness,
    decode_image_boxes,
    giou,
    image_loss,
)

CONFIG = AuxLoss2DConfig()
LEVELS = image_anchors([(8, 16), (4, 8), (2, 4)], scale=4)
ANCHORS = torch.cat(LEVELS)
CARS = ImageObjects(
    torch.tensor([[5.0, 8, 30, 22], [30, 3, 60, 30]]),
    torch.tensor([[17.0, 15.0], [46.0, 17.0]]),
    torch.tensor([0, 2]),
)
ONE = ImageObjects(CARS.boxes[:1], CARS.centres[:1], CARS.labels[:1])
NOTHING = ImageObjects(torch.zeros(0, 4), torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))


def encoded(boxes: Tensor, anchors: Tensor) -> Tensor:
    """What decodes to the boxes."""
    size = anchors[:, 2:] - anchors[:, :2]
    moved = (boxes[:, :2] + boxes[:, 2:] - anchors[:, :2] - anchors[:, 2:]) / 2 / size
    grown = ((boxes[:, 2:] - boxes[:, :2]) / size).log()
    return torch.cat([moved / CENTRE_STD, grown / SIZE_STD], 1)


def perfect(objects: ImageObjects) -> ImageMaps:
    """What a head says that knows the objects; it says nothing of other classes' boxes."""
    own = assign_image_anchors(LEVELS, objects, CONFIG.nearest)
    logit = torch.full((1, len(ANCHORS), 3), -30.0)
    code = torch.full((1, len(ANCHORS), 3, 4), 9.0)
    central = torch.zeros(1, len(ANCHORS))
    for n in own.positive.nonzero().flatten().tolist():
        box, label = objects.boxes[own.box[n]][None], own.label[n]
        logit[0, n, label] = 30
        code[0, n, label] = encoded(box, ANCHORS[n][None])[0]
        central[0, n] = centreness(ANCHORS[n][None], box)[0].logit()
    return ImageMaps(logit, code, central, LEVELS)


def noisy(frames: int, seed: int = 0) -> ImageMaps:
    generator = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> Tensor:
        return torch.randn(frames, len(ANCHORS), *shape, generator=generator).requires_grad_()

    return ImageMaps(some(3), some(3, 4), some(), LEVELS)


def of_frame(maps: ImageMaps, row: int) -> ImageMaps:
    one = slice(row, row + 1)
    return ImageMaps(maps.logit[one], maps.code[one], maps.centreness[one], maps.anchors)


def test_a_step_reaches_every_parameter():
    head = AuxHead2D(AuxHead2DConfig(channels=4, layers=2, groups=2), 4, 3)
    maps = head(torch.randn(1, 4, 8, 16))
    boxes = torch.tensor([[2.0, 2, 40, 30], [0, 0, 63, 31]])
    seen = ImageObjects(boxes, (boxes[:, :2] + boxes[:, 2:]) / 2, torch.tensor([0, 1]))
    torch.stack(list(image_loss(maps, [seen], CONFIG).values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    assert all(p.grad.abs().sum() > 0 for p in head.class_stack.parameters() if p.grad is not None)


def test_who_knows_has_the_least_loss():
    maps = perfect(CARS)
    terms = image_loss(maps, [CARS], CONFIG)
    own = assign_image_anchors(LEVELS, CARS, CONFIG.nearest)
    assert own.positive.sum() > 4
    central = centreness(ANCHORS[own.positive], CARS.boxes[own.box[own.positive]])
    entropy = -(central * central.log() + (1 - central).clamp(min=1e-9).log() * (1 - central))
    assert terms["classes"] < 1e-6
    assert terms["box"].item() == pytest.approx(0, abs=1e-4)
    # The least that a cross-entropy against such targets can be.
    assert terms["centreness"].item() == pytest.approx(entropy.mean().item(), abs=1e-4)
    worse = maps.centreness + torch.where(own.positive, 0.3, 0.0)
    other = image_loss(ImageMaps(maps.logit, maps.code, worse, LEVELS), [CARS], CONFIG)
    assert other["centreness"] > terms["centreness"]


def test_no_objects_leave_the_background_alone():
    maps = noisy(1)
    terms = image_loss(maps, [NOTHING], CONFIG)
    assert [terms[name].item() for name in ("box", "centreness")] == [0, 0]
    assert terms["classes"] > 0
    torch.stack(list(terms.values())).sum().backward()
    for part in (maps.logit, maps.code, maps.centreness):
        assert part.grad is not None
        assert part.grad.isfinite().all()


def literal(maps: ImageMaps, seen: list[ImageObjects]) -> dict[str, float]:
    """LIGA-Stereo's sums, anchor by anchor; GIoU, which has a test of its own, apart."""
    classes = entropy = apart = weight = 0.0
    positives = 0
    for b, frame in enumerate(seen):
        own = assign_image_anchors(LEVELS, frame, 9)
        positives += max(int(own.positive.sum()), 1)
        for n, (left, top, right, bottom) in enumerate(ANCHORS.tolist()):
            label = int(own.label[n])
            for c in range(3):
                p = maps.logit[b, n, c].sigmoid().item()
                hit = c == label
                classes += (
                    0.25 * (1 - p) ** 2 * -math.log(p) if hit else 0.75 * p**2 * -math.log(1 - p)
                )
            if label < 0:
                continue
            wanted = frame.boxes[own.box[n]]
            u, v = (left + right) / 2, (top + bottom) / 2
            across = sorted([u - wanted[0].item(), wanted[2].item() - u])
            along = sorted([v - wanted[1].item(), wanted[3].item() - v])
            central = math.sqrt(across[0] / across[1] * along[0] / along[1])
            says = maps.centreness[b, n].sigmoid().item()
            entropy -= central * math.log(says) + (1 - central) * math.log(1 - says)
            found = decode_image_boxes(maps.code[b, n, label][None], ANCHORS[n][None])
            apart += central * (1 - giou(found, wanted[None]).item())
            weight += central
    return {
        "classes": classes / positives,
        "box": 2 * apart / weight,
        "centreness": entropy / positives,
    }


def test_the_terms_are_their_sums_read_literally():
    maps, seen = noisy(2), [CARS, NOTHING]
    terms = image_loss(maps, seen, CONFIG)
    for name, value in literal(maps, seen).items():
        assert terms[name].item() == pytest.approx(value, rel=1e-5), name


def test_a_batch_is_the_mean_of_its_positives():
    """Frames count by their positives, boxes by their centreness; one without counts as one."""
    maps, seen = noisy(3), [CARS, NOTHING, ONE]
    own = [assign_image_anchors(LEVELS, frame, CONFIG.nearest) for frame in seen]
    count = torch.tensor([max(int(frame.positive.sum()), 1) for frame in own])
    central = torch.stack(
        [
            centreness(ANCHORS[frame.positive], at.boxes[frame.box[frame.positive]]).sum()
            for frame, at in zip(own, seen, strict=True)
        ]
    )
    alone = [image_loss(of_frame(maps, row), [frame], CONFIG) for row, frame in enumerate(seen)]
    together = image_loss(maps, seen, CONFIG)
    for name, weight in (("classes", count), ("centreness", count), ("box", central)):
        values = torch.stack([terms[name] for terms in alone])
        assert together[name].item() == pytest.approx(
            ((values * weight).sum() / weight.sum()).item(), rel=1e-5
        )


def test_only_the_objects_class_says_its_box():
    maps = noisy(1)
    image_loss(maps, [CARS], CONFIG)["box"].backward()
    own = assign_image_anchors(LEVELS, CARS, CONFIG.nearest)
    assert maps.code.grad is not None
    told = maps.code.grad[0].abs().sum(-1) > 0
    wanted = own.label[:, None] == torch.arange(3)
    assert torch.equal(told & wanted, told)
    assert told[own.positive].any(1).all()


def test_terms_have_their_weights():
    plain = image_loss(noisy(1), [CARS], AuxLoss2DConfig(classes=1, box=1, centreness=1))
    other = image_loss(noisy(1), [CARS], AuxLoss2DConfig(classes=3, box=5, centreness=7))
    for name, weight in (("classes", 3), ("box", 5), ("centreness", 7)):
        assert other[name].item() == pytest.approx(weight * plain[name].item())
    assert image_loss(noisy(1), [CARS], CONFIG)["box"].item() == pytest.approx(
        2 * plain["box"].item()
    )


def test_giou_by_hand():
    ours = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 1, 1], [0, 0, 2, 2]])
    theirs = torch.tensor([[0.0, 0, 2, 2], [1, 1, 3, 3], [2, 0, 3, 1], [0, 0, 4, 1]])
    # Alike; one of seven shared in a hull of nine; a gap of a third; two of six, hull eight.
    wanted = [1, 1 / 7 - 2 / 9, -1 / 3, 2 / 6 - 2 / 8]
    assert giou(ours, theirs).tolist() == pytest.approx(wanted)
    assert giou(theirs, ours).tolist() == pytest.approx(wanted)


def test_centreness_by_hand():
    anchors = torch.tensor([[-1.0, -1, 1, 1], [0, 0, 8, 8]])
    boxes = torch.tensor([[-3.0, -3, 3, 3], [3, 2, 6, 10]])
    # The second is 1 from the left, 2 from the right, 2 from the top, 6 from the bottom.
    assert centreness(anchors, boxes).tolist() == pytest.approx([1, math.sqrt(1 / 2 * 2 / 6)])


def test_codes_by_hand():
    anchors = torch.tensor([[10.0, 20, 30, 60], [10, 20, 30, 60]])
    codes = torch.tensor([[1.0, -2, 0, 5 * math.log(2)], [0, 0, 1e4, -1e4]])
    # A tenth of 20 to the right, a fifth of 40 up, twice as high; then the limits.
    wide, high = 20 * 1000 / 16, 40 * 16 / 1000
    wanted = [[12, -8, 32, 72], [20 - wide / 2, 40 - high / 2, 20 + wide / 2, 40 + high / 2]]
    assert torch.allclose(decode_image_boxes(codes, anchors), torch.tensor(wanted))


def test_codes_come_back():
    boxes = CARS.boxes[torch.arange(len(ANCHORS)) % 2]
    assert torch.allclose(
        decode_image_boxes(encoded(boxes, ANCHORS), ANCHORS), boxes, rtol=0, atol=1e-3
    )
