"""KITTI's labels of a world's frame, from its boxes and from the pixels of the left image."""

import math

import torch

from frames.camera_view import image_bboxes, truncations
from frames.frame import Camera
from frames.geometry import SE3
from frames.kitti.labels import (
    DONT_CARE,
    NO_ALPHA,
    NO_OCCLUSION,
    NO_TRUNCATION,
    Box,
    KittiObject,
    observation_angle,
)
from frames.world.proposals import Body
from frames.world.scene import Scene
from frames.world.tracks import at
from frames.world.views import View, visible_rays

# Hidden shares from which occlusion is 1, 2, 3: quarters, as convert/argo2kitti.py of
# cxy1997/3D_adapt_auto_driving; KITTI's own were judged by eye.
HIDDEN_SHARES = (0.25, 0.50, 0.75)
# With fewer nobody could draw a box, and no student find it.
LEAST_PIXELS = 4


def label_objects(
    scene: Scene, left: View, camera: Camera, time: float, label_range: float
) -> list[KittiObject]:
    """The lines of a label file: what is labelled, then DontCare areas.

    An object without a pixel in the left image is left out: nobody sees that it is there. One
    that is seen but too far, smaller than ``LEAST_PIXELS``, or a cycle without a rider, is a
    DontCare area: KITTI does not label it, and a detection there is no mistake.

    Args:
        scene: What there is.
        left: What the left camera sees.
        camera: The left camera, pseudo-LiDAR frame.
        time: Of the scene, seconds.
        label_range: Distance on the ground from the camera, metres.
    """
    seen = visible_rays(scene, left.hits)
    named = [number for number, body in enumerate(scene.bodies) if body.category and seen[number]]
    ego_from_global = camera.ego_from_cam @ left.global_from_sensor.inverse()
    boxes = _boxes(scene, named, ego_from_global, time)
    rows = torch.tensor([[*box, 0, 0] for box in boxes], dtype=torch.float64).reshape(-1, 9)
    bboxes, in_image = image_bboxes(camera, rows)
    outside = truncations(camera, rows)
    labelled, areas = [], []
    for place, (number, box) in enumerate(zip(named, boxes, strict=True)):
        if not in_image[place]:
            continue
        left_u, top, right_u, bottom = bboxes[place].tolist()
        bbox = (left_u, top, right_u, bottom)
        far = math.hypot(box[0], box[1]) > label_range
        if far or seen[number] < LEAST_PIXELS or _unridden(scene.bodies[number]):
            areas.append(_area(bbox))
            continue
        labelled.append(
            KittiObject(
                kind=scene.bodies[number].category,
                truncation=float(outside[place]),
                occlusion=occlusion(int(seen[number]), int(left.hits.unhidden[number])),
                alpha=observation_angle(box),
                bbox=bbox,
                box=box,
            )
        )
    return labelled + areas


def occlusion(visible: int, unhidden: int) -> int:
    """KITTI's level, 0 to 3, of an object.

    Args:
        visible: Pixels of it that are seen.
        unhidden: Pixels it would have if it stood alone.
    """
    hidden = 1 - visible / unhidden
    return sum(hidden >= share for share in HIDDEN_SHARES)


def _boxes(scene: Scene, numbers: list[int], ego_from_global: SE3, time: float) -> list[Box]:
    """Boxes of bodies in the pseudo-LiDAR frame."""
    boxes = []
    poses = at(scene.states, time)
    for number in numbers:
        length, width, height = scene.bodies[number].size.tolist()
        x, y, yaw = poses[number].tolist()
        pose = ego_from_global @ SE3.from_yaw(yaw, [x, y, height / 2])
        centre = pose.translation.tolist()
        boxes.append((*centre, length, width, height, pose.yaw))
    return boxes


def _unridden(body: Body) -> bool:
    return body.kind == "bicycle" and not body.rider


def _area(bbox: tuple[float, float, float, float]) -> KittiObject:
    return KittiObject(
        kind=DONT_CARE,
        truncation=NO_TRUNCATION,
        occlusion=NO_OCCLUSION,
        alpha=NO_ALPHA,
        bbox=bbox,
        box=None,
    )
