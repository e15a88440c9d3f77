"""Head, loss and decoder together: what is learned by heart comes back as boxes."""

import torch

from frames.boxes import BoxBatch, Boxes3D
from frames.detection_classes import DETECTION_CLASSES
from frames.grid import BEVGrid
from nets.atss import ImageObjects, overlap
from nets.aux_head_2d import AuxHead2D, AuxHead2DConfig
from nets.aux_loss_2d import AuxLoss2DConfig, decode_image_boxes, image_loss
from nets.center_decode import CenterDecodeConfig, decode
from nets.center_head import CenterHead, CenterHeadConfig
from nets.center_loss import CenterLossConfig, center_loss
from nets.iou_aware_decode import IouAwareDecodeConfig, decode_iou_aware
from nets.iou_aware_loss import IouAwareLoss, IouAwareLossConfig

GRID = BEVGrid(x_min=-6.4, y_min=-6.4, cell_size=0.8, shape=(16, 16))


TRUTH = Boxes3D(
    torch.tensor(
        [
            [-3.1, 2.7, 0.4, 4.4, 1.9, 1.6, 0.7, 2.0, 1.0],
            [4.0, -4.2, 1.0, 9.0, 2.8, 3.4, -2.2, 0.0, 0.0],
            [1.3, 5.0, 0.1, 0.7, 0.6, 1.7, 3.0, -1.0, 0.5],
        ]
    ),
    torch.tensor([0, 3, 8]),
)


def test_one_frame_is_learned_and_decoded_to_a_tenth_of_a_metre() -> None:
    torch.manual_seed(0)
    truth = TRUTH
    tasks = (DETECTION_CLASSES[5:], DETECTION_CLASSES[:5])
    config = CenterHeadConfig(in_channels=16, tasks=tasks, shared_channels=16, head_channels=16)
    head = CenterHead(config)
    features = torch.randn(1, 16, 16, 16)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 150)
    for _ in range(150):
        terms = center_loss(head(features), BoxBatch.pad([truth]), GRID, CenterLossConfig())
        optimizer.zero_grad()
        (terms["heatmap"] + terms["box"]).backward()
        optimizer.step()
        schedule.step()
    decoding = CenterDecodeConfig(score_threshold=0.5, circle_squared=(1.0, 1.0))
    found = decode(head(features), GRID, decoding)[0]
    order = found.labels.argsort()
    assert found.labels[order].tolist() == [0, 3, 8]
    torch.testing.assert_close(found.boxes[order], truth.values, rtol=0, atol=0.1)


def test_one_frame_is_learned_by_the_iou_aware_head_which_knows_how_well() -> None:
    torch.manual_seed(0)
    tasks = (DETECTION_CLASSES[5:], DETECTION_CLASSES[:5])
    config = CenterHeadConfig(
        in_channels=16, tasks=tasks, shared_channels=16, head_channels=16, iou=True
    )
    head, loss = CenterHead(config), IouAwareLoss(IouAwareLossConfig())
    features = torch.randn(1, 16, 16, 16)
    learned = [*head.parameters(), *loss.parameters()]
    optimizer = torch.optim.Adam(learned, lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    for _ in range(200):
        terms = loss(head(features), BoxBatch.pad([TRUTH]), GRID)
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        schedule.step()
    # What has become easy counts more: its uncertainty has fallen.
    assert loss.uncertainty[0].item() < 0.5
    maps = head(features)
    (found,) = decode_iou_aware(maps, GRID, IouAwareDecodeConfig(score_threshold=0.5))
    order = found.labels.argsort()
    assert found.labels[order].tolist() == [0, 3, 8]
    torch.testing.assert_close(found.boxes[order], TRUTH.values, rtol=0, atol=0.3)


def test_one_image_is_learned() -> None:
    torch.manual_seed(0)
    boxes = torch.tensor([[5.0, 8, 30, 22], [30, 3, 60, 30]])
    truth = ImageObjects(boxes, (boxes[:, :2] + boxes[:, 2:]) / 2, torch.tensor([0, 2]))
    config = AuxHead2DConfig(channels=16, layers=1, groups=4, levels=3, anchor_scale=4)
    head = AuxHead2D(config, 8, 3)
    features = torch.randn(1, 8, 8, 16)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(60):
        terms = image_loss(head(features), [truth], AuxLoss2DConfig())
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
    maps = head(features)
    anchors = torch.cat(maps.anchors)
    score = maps.logit[0].sigmoid() * maps.centreness[0].sigmoid()[:, None]
    best = score[:, truth.labels].argmax(0)
    found = decode_image_boxes(maps.code[0, best, truth.labels], anchors[best])
    shared, union = overlap(found, boxes)
    assert (shared / union).min() > 0.9
    assert score[best, 1].max() < 0.1
