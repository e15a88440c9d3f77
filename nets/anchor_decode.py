"""Anchors to detections: scores, headings, rotated suppression (LIGA-Stereo, OpenPCDet)."""

import torch
from jaxtyping import Float, Float32
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor

from frames.anchor_code import decode_at_anchors
from frames.anchors import BOX_CODE
from frames.boxes import BOX_SIZE
from frames.detections import Detections
from frames.geometry import wrap_angle
from nets.anchor_head import AnchorMaps
from nets.anchor_loss import YAW, directed
from nets.suppression import rotated_keep


class AnchorDecodeConfig(BaseModel):
    """Which anchors become detections; defaults are LIGA-Stereo's (commit aee3731).

    Attributes:
        score_threshold: Detections score at least so much.
        candidates: Best anchors of a class that are looked at.
        overlap: BEV IoU above which the better of two boxes of a class suppresses the other.
        kept: Detections of a frame, at most.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    score_threshold: float = Field(0.1, ge=0, lt=1)
    candidates: PositiveInt = 4096
    overlap: float = Field(0.25, gt=0, le=1)
    kept: PositiveInt = 500


@torch.no_grad()
def decode(
    maps: AnchorMaps, anchors: Float[Tensor, "n 7"], config: AnchorDecodeConfig
) -> list[Detections]:
    """Detections of each frame, best first, on the device of the maps; velocities are 0."""
    return [_decode_frame(maps, frame, anchors, config) for frame in range(len(maps.logit))]


def _decode_frame(
    maps: AnchorMaps, frame: int, anchors: Float[Tensor, "n 7"], config: AnchorDecodeConfig
) -> Detections:
    scores = maps.logit[frame].float().sigmoid()
    found = [
        _decode_class(maps, frame, anchors, scores[:, label], config)
        for label in range(scores.shape[1])
    ]
    boxes = torch.cat([part[0] for part in found])
    score = torch.cat([part[1] for part in found])
    labels = torch.cat([torch.full_like(part[1], label).long() for label, part in enumerate(found)])
    order = score.argsort(descending=True, stable=True)[: config.kept]
    return Detections(boxes[order], labels[order], score[order])


def _decode_class(
    maps: AnchorMaps,
    frame: int,
    anchors: Float[Tensor, "n 7"],
    scores: Float32[Tensor, " n"],
    config: AnchorDecodeConfig,
) -> tuple[Float32[Tensor, "k 9"], Float32[Tensor, " k"]]:
    best, index = scores.topk(min(config.candidates, len(scores)))
    index = index[best >= config.score_threshold]
    boxes = decode_at_anchors(maps.code[frame, index].float(), anchors[index])
    half_turn = maps.direction[frame, index].argmax(1)
    boxes[:, YAW] = wrap_angle(directed(boxes[:, YAW], half_turn))
    keep = rotated_keep(boxes, config.overlap, config.kept)
    padded = boxes.new_zeros(int(keep.sum()), BOX_SIZE)
    padded[:, :BOX_CODE] = boxes[keep]
    return padded, scores[index][keep]
