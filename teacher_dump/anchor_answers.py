"""What a teacher with anchors says of each true box: the word of its likeliest anchor."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from frames.anchor_assign import positive_anchors
from frames.anchors import AnchorConfig
from frames.boxes import BOX_SIZE, YAW, BoxBatch, Boxes3D
from frames.geometry import wrap_angle
from nets.anchor_loss import directed
from teacher_dump.protocol import AnchorOutput


@dataclass(frozen=True, slots=True)
class Answers:
    """Fields as in ``TeacherOutput``."""

    boxes: Float[Tensor, "b m 9"]
    scores: Float[Tensor, "b m"]
    labels: Int64[Tensor, "b m"]
    answered: Bool[Tensor, "b m"]


def answers_at_anchors(output: AnchorOutput, boxes: BoxBatch, config: AnchorConfig) -> Answers:
    """For each true box, of the anchors that answer for it, the one surest of its class.

    Args:
        output: What the teacher says at every anchor.
        boxes: Ground truth.
        config: The anchors.

    Returns:
        Headings are those that the direction classifier chooses; velocities are 0.
    """
    device = output.box.device
    shape = boxes.labels.shape
    found = Answers(
        torch.zeros(*shape, BOX_SIZE, device=device),
        torch.zeros(shape, device=device),
        torch.zeros(shape, dtype=torch.int64, device=device),
        torch.zeros(shape, dtype=torch.bool, device=device),
    )
    for b in range(shape[0]):
        count = int(boxes.valid[b].sum())
        truth = Boxes3D(boxes.values[b, :count].cpu(), boxes.labels[b, :count].cpu())
        index, owner = positive_anchors(config, truth)
        for m in sorted(set(owner.tolist())):
            own = index[owner == m].to(device)
            label = int(truth.labels[m])
            best = own[output.logit[b, own, label].argmax()]
            found.boxes[b, m, :YAW] = output.box[b, best, :YAW].float()
            heading = directed(output.box[b, best, YAW].float(), output.direction[b, best])
            found.boxes[b, m, YAW] = wrap_angle(heading)
            found.scores[b, m] = output.logit[b, best, label].sigmoid()
            found.labels[b, m] = output.logit[b, best].argmax()
            found.answered[b, m] = True
    return found
