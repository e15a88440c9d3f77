"""Detections as KITTI result files, one a frame, that any KITTI evaluation reads."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from frames.camera_view import image_bboxes
from frames.detections import Detections
from frames.frame import Camera
from frames.kitti.labels import (
    NO_OCCLUSION,
    NO_TRUNCATION,
    KittiObject,
    observation_angle,
    write_objects,
)
from frames.kitti.reader import KittiFrame


def write_results(
    folder: Path,
    frames: Iterable[KittiFrame],
    detections: Mapping[str, Detections],
    classes: tuple[str, ...],
) -> None:
    """Write ``<folder>/<token>.txt`` for each frame; one without detections gets an empty file.

    Args:
        folder: Made if need be.
        frames: Frames to write.
        detections: Token -> detections of that frame, pseudo-LiDAR.
        classes: Names that their labels index.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for frame in frames:
        found = result_objects(detections[frame.token], frame.view, classes)
        write_objects(folder / f"{frame.token}.txt", found)


def result_objects(
    detections: Detections, view: Camera, classes: tuple[str, ...]
) -> list[KittiObject]:
    """Detections as lines of a result file, in their order.

    The 2D box is the projected 3D box, cut at the image. A detection outside the image is left
    out: its 2D box has no height, and KITTI's evaluation ignores those below 25 pixels.

    Raises:
        ValueError: A detection is not finite.
    """
    if not (detections.boxes.isfinite().all() and detections.scores.isfinite().all()):
        raise ValueError("detections are not finite; the detector diverged")
    bboxes, visible = image_bboxes(view, detections.boxes.double())
    found = []
    for index in visible.nonzero()[:, 0].tolist():
        x, y, z, length, width, height, yaw, *_ = detections.boxes[index].double().tolist()
        box = (x, y, z, length, width, height, yaw)
        left, top, right, bottom = bboxes[index].tolist()
        found.append(
            KittiObject(
                kind=classes[int(detections.labels[index])],
                truncation=NO_TRUNCATION,
                occlusion=NO_OCCLUSION,
                alpha=observation_angle(box),
                bbox=(left, top, right, bottom),
                box=box,
                score=float(detections.scores[index]),
            )
        )
    return found
