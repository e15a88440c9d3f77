"""In frames without labels a teacher's own detections stand for the boxes."""

from collections.abc import Sequence
from dataclasses import replace

from frames.boxes import Boxes3D
from frames.frame import Frame
from teacher_dump.protocol import Teacher


def with_pseudo_labels(teacher: Teacher, frames: Sequence[Frame]) -> list[Frame]:
    """The frames; those without labels have what the teacher detects in them as boxes.

    Of the detections in the frame as it is, those of at least its ``teacher_score``, best first.
    This runs the teacher on these frames once more.
    """
    hidden = list({frame.token: frame for frame in frames if frame.unlabelled}.values())
    if not hidden:
        return list(frames)
    boxes: dict[str, Boxes3D] = {}
    for frame, found in zip(hidden, teacher.detect(hidden), strict=True):
        assert frame.teacher_score is not None, "it is unlabelled"
        sure = found.scores >= frame.teacher_score
        boxes[frame.token] = Boxes3D(found.boxes[sure], found.labels[sure])
    return [
        replace(frame, boxes=boxes[frame.token]) if frame.unlabelled else frame for frame in frames
    ]
