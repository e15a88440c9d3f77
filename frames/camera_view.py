"""What a camera of a frame sees: points and boxes of the ego frame in its image."""

import itertools

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from frames.boxes import CENTRE, SIZE, YAW
from frames.frame import Camera
from frames.geometry import project, yaw_rotations

# Points along each edge of the lattice whose hull is a box's 2D box; LIGA-Stereo, box_utils.py.
LATTICE = 7


def image_from_ego(camera: Camera) -> Float64[np.ndarray, "3 4"]:
    """Projection matrix on (x, y, z, 1), ego frame; depth is its last row. KITTI's P, turned."""
    matrix: np.ndarray = camera.image_from_cam @ camera.ego_from_cam.inverse().matrix[:3]
    return matrix


def project_ego(
    camera: Camera, points: Float[Tensor, "*n 3"]
) -> tuple[Float[Tensor, "*n 2"], Float[Tensor, "*n"]]:
    """Pixels (u, v) and depth, metres, of points of the ego frame; see ``geometry.project``."""
    cam_from_ego = torch.from_numpy(camera.ego_from_cam.inverse().matrix).to(points)
    in_cam = points @ cam_from_ego[:3, :3].mT + cam_from_ego[:3, 3]
    return project(in_cam, torch.from_numpy(camera.image_from_cam).to(points))


def project_by(
    image_from_ego: Float[Tensor, "3 4"], points: Float[Tensor, "*n 3"]
) -> tuple[Float[Tensor, "*n 2"], Float[Tensor, "*n"]]:
    """As :func:`project_ego`, by a matrix as :func:`image_from_ego` gives it."""
    homogeneous = points @ image_from_ego[:, :3].mT + image_from_ego[:, 3]
    return project(homogeneous, torch.eye(3).to(points))


def sees(camera: Camera, points: Float[Tensor, "n 3"]) -> Bool[Tensor, " n"]:
    """Whether points of the ego frame fall into the image.

    The bounds are those of ``get_fov_flag`` of LIGA-Stereo's stereo_kitti_dataset.py: strictly
    between the centres of the first and the last pixel.
    """
    pixels, depth = project_ego(camera, points)
    last = pixels.new_tensor([camera.size[1] - 1, camera.size[0] - 1])
    return ((pixels > 0) & (pixels < last)).all(-1) & (depth > 0)


def image_bboxes(
    camera: Camera, boxes: Float[Tensor, "n 9"]
) -> tuple[Float[Tensor, "n 4"], Bool[Tensor, " n"]]:
    """2D boxes: the hull of 7 x 7 x 7 points of each box before the camera, cut at the image.

    Args:
        camera: The image.
        boxes: x y z l w h yaw vx vy, ego frame.

    Returns:
        left, top, right, bottom, in pixels from 0 to the last pixel's centre; and whether any of
        the box is in the image (elsewhere the four numbers mean nothing).
    """
    hull = _hulls(*project_ego(camera, _lattices(boxes)))
    return _visible(*_cut(_size(camera, boxes), *hull))


def projected_bboxes(
    image_from_ego: Float[Tensor, "3 4"], size: Int64[Tensor, "2"], boxes: Float[Tensor, "n 9"]
) -> tuple[Float[Tensor, "n 4"], Bool[Tensor, " n"]]:
    """As :func:`image_bboxes`, of an image known by its projection matrix.

    Args:
        image_from_ego: On (x, y, z, 1); depth is its last row.
        size: Of the image, (height, width).
        boxes: x y z l w h yaw vx vy, ego frame.
    """
    hull = _hulls(*project_by(image_from_ego, _lattices(boxes)))
    return _visible(*_cut(size, *hull))


def truncations(camera: Camera, boxes: Float[Tensor, "n 9"]) -> Float[Tensor, " n"]:
    """Share of each 2D box, uncut, that lies outside the image; KITTI's truncation.

    Args:
        camera: The image.
        boxes: x y z l w h yaw vx vy, ego frame; of one partly behind the camera only the rest
            counts, one wholly behind it is wholly outside.
    """
    low, high = _hulls(*project_ego(camera, _lattices(boxes)))
    cut_low, cut_high = _cut(_size(camera, boxes), low, high)
    return 1 - (cut_high - cut_low).clamp(min=0).prod(-1) / (high - low).prod(-1)


def _lattices(boxes: Float[Tensor, "n 9"]) -> Float[Tensor, "n points 3"]:
    """Points throughout each box, ego frame."""
    steps = [float(step) for step in np.linspace(-0.5, 0.5, LATTICE)]
    lattice = boxes.new_tensor(list(itertools.product(steps, repeat=3)))
    offset = lattice * boxes[:, None, SIZE]
    turned = torch.cat([offset[..., :2] @ yaw_rotations(boxes[:, YAW]).mT, offset[..., 2:]], dim=-1)
    return turned + boxes[:, None, CENTRE]


def _hulls(
    pixels: Float[Tensor, "n points 2"], depth: Float[Tensor, "n points"]
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n 2"]]:
    """Least and greatest pixels of what lies before the camera, whether in the image or not."""
    before = (depth > 0)[..., None]
    return pixels.where(before, torch.inf).amin(1), pixels.where(before, -torch.inf).amax(1)


def _size(camera: Camera, like: Tensor) -> Int64[Tensor, "2"]:
    return torch.tensor(camera.size, device=like.device)


def _cut(
    size: Int64[Tensor, "2"], low: Float[Tensor, "n 2"], high: Float[Tensor, "n 2"]
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n 2"]]:
    return low.clamp(min=0), high.minimum((size.flip(0) - 1).to(high))


def _visible(
    low: Float[Tensor, "n 2"], high: Float[Tensor, "n 2"]
) -> tuple[Float[Tensor, "n 4"], Bool[Tensor, " n"]]:
    return torch.cat([low, high], dim=-1), (low < high).all(-1)
