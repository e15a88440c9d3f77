"""What a centre head says of a batch, as a teacher's output."""

from collections.abc import Callable, Mapping

from torch import Tensor

from frames.box_code import decode_boxes
from frames.boxes import BoxBatch
from frames.detections import Detections
from frames.grid import BEVGrid
from frames.heatmap import on_grid
from nets.center_head import CenterMaps, codes_at
from store.schema import Target
from teacher_dump.found_boxes import found_at_cells
from teacher_dump.protocol import TeacherOutput


def answers_at_centres(
    head: CenterMaps,
    boxes: BoxBatch,
    grid: BEVGrid,
    features: Mapping[Target, Tensor],
    decode: Callable[[CenterMaps], list[Detections]],
) -> TeacherOutput:
    """The output of a teacher whose box for an object is read at the object's centre cell.

    Args:
        head: Of the batch.
        boxes: Ground truth, on the device of the maps.
        grid: Of the maps.
        features: What the teacher gives beside its head's maps.
        decode: The teacher's own way from the head to detections.
    """
    cell = grid.cell_index(boxes.values[..., :2])
    flat = head.heatmap_logit.flatten(2)
    prob = flat.gather(2, cell[:, None].expand(-1, flat.shape[1], -1)).mT.sigmoid()
    codes = codes_at(head, boxes.labels, cell)
    return TeacherOutput(
        maps={
            **features,
            Target.HEATMAP_LOGIT: head.heatmap_logit,
            Target.BOX_CODE: head.box_code.flatten(1, 2),
        },
        boxes=decode_boxes(codes, cell, grid),
        codes=codes,
        scores=prob.gather(-1, boxes.labels[..., None]).squeeze(-1),
        labels=prob.argmax(-1),
        answered=on_grid(boxes, grid),
        found=lambda: found_at_cells(head, decode(head)),
    )
