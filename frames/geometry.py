"""Rigid transforms and rotations; only this and its neighbours rotate anything."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor


@dataclass(frozen=True, slots=True)
class SE3:
    """A rigid transform, named ``a_from_b``: it takes points of frame b to frame a.

    Attributes:
        rotation: Rotation matrix.
        translation: Origin of b seen from a, metres.
    """

    rotation: Float64[np.ndarray, "3 3"]
    translation: Float64[np.ndarray, "3"]

    @classmethod
    def identity(cls) -> "SE3":
        """The transform that moves nothing."""
        return cls(np.eye(3), np.zeros(3))

    @classmethod
    def from_quaternion(cls, wxyz: list[float], translation: list[float]) -> "SE3":
        """From a (w, x, y, z) quaternion, normalised here, and a translation in metres."""
        w, x, y, z = np.asarray(wxyz, dtype=np.float64) / np.linalg.norm(wxyz)
        rotation = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )
        return cls(rotation, np.asarray(translation, dtype=np.float64))

    @classmethod
    def from_yaw(cls, yaw: float, translation: list[float]) -> "SE3":
        """From a heading about +z, radians counter-clockwise, and a translation in metres."""
        cos, sin = math.cos(yaw), math.sin(yaw)
        rotation = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
        return cls(rotation, np.asarray(translation, dtype=np.float64))

    def __matmul__(self, other: "SE3") -> "SE3":
        """``a_from_b @ b_from_c`` is ``a_from_c``."""
        return SE3(
            self.rotation @ other.rotation,
            self.rotation @ other.translation + self.translation,
        )

    def inverse(self) -> "SE3":
        """``b_from_a``."""
        return SE3(self.rotation.T.copy(), -self.rotation.T @ self.translation)

    def apply(self, points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
        """The points, metres, seen from frame a; dtype kept."""
        moved: np.ndarray = points @ self.rotation.T + self.translation
        return moved.astype(points.dtype, copy=False)

    @property
    def matrix(self) -> Float64[np.ndarray, "4 4"]:
        """Homogeneous matrix."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.rotation
        matrix[:3, 3] = self.translation
        return matrix

    @property
    def yaw(self) -> float:
        """Heading of b's x axis in a's xy plane, radians in (-pi, pi]."""
        return math.atan2(self.rotation[1, 0], self.rotation[0, 0])

    @property
    def quaternion(self) -> list[float]:
        """Unit quaternion (w, x, y, z) with w >= 0 (largest-component method)."""
        m = self.rotation
        squares = np.array(
            [
                1 + m[0, 0] + m[1, 1] + m[2, 2],
                1 + m[0, 0] - m[1, 1] - m[2, 2],
                1 - m[0, 0] + m[1, 1] - m[2, 2],
                1 - m[0, 0] - m[1, 1] + m[2, 2],
            ]
        )
        w, x, y, z = range(4)
        products = {
            (w, x): m[2, 1] - m[1, 2],
            (w, y): m[0, 2] - m[2, 0],
            (w, z): m[1, 0] - m[0, 1],
            (x, y): m[0, 1] + m[1, 0],
            (x, z): m[0, 2] + m[2, 0],
            (y, z): m[1, 2] + m[2, 1],
        }
        k = int(squares.argmax())
        quaternion = np.array(
            [squares[k] if i == k else products[min(i, k), max(i, k)] for i in range(4)]
        )
        quaternion /= 2 * math.sqrt(squares[k])
        return [float(q) for q in (quaternion if quaternion[0] >= 0 else -quaternion)]


# Ego axes from the camera axes (x right, y down, z forward) of a camera that looks straight ahead:
# x = z_cam, y = -x_cam, z = -y_cam.
AHEAD = SE3(np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]), np.zeros(3))


def wrap_angle(angle: Float[Tensor, "*n"], period: float = 2 * math.pi) -> Float[Tensor, "*n"]:
    """The angle moved by whole periods into [-period/2, period/2)."""
    return torch.remainder(angle + period / 2, period) - period / 2


def yaw_rotations(yaw: Float[Tensor, "*n"]) -> Float[Tensor, "*n 2 2"]:
    """2x2 rotation matrices, counter-clockwise, of yaws in radians."""
    cos, sin = yaw.cos(), yaw.sin()
    return torch.stack([cos, -sin, sin, cos], dim=-1).reshape(*yaw.shape, 2, 2)


def footprint_corners(boxes: Float[Tensor, "*n 9"]) -> Float[Tensor, "*n 4 2"]:
    """Ground-plane corners of boxes, metres: front left, front right, rear right, rear left."""
    signs = boxes.new_tensor([[1, 1], [1, -1], [-1, -1], [-1, 1]])
    offsets = signs * boxes[..., None, 3:5] / 2
    return offsets @ yaw_rotations(boxes[..., 6]).mT + boxes[..., None, :2]


def in_footprints(
    points: Float[Tensor, "*b q 2"], boxes: Float[Tensor, "*b m 9"], margin: float = 0.0
) -> Bool[Tensor, "*b q m"]:
    """Which points (x, y), metres, lie in which boxes seen from above.

    Args:
        points: To be found.
        boxes: x y z l w h yaw vx vy.
        margin: Metres by which each side of a box moves outward.
    """
    x, y, _, length, width, _, yaw, *_ = boxes[..., None, :, :].unbind(-1)
    dx, dy = points[..., :1] - x, points[..., 1:] - y
    along, across = dx * yaw.cos() + dy * yaw.sin(), dy * yaw.cos() - dx * yaw.sin()
    return (along.abs() <= length / 2 + margin) & (across.abs() <= width / 2 + margin)


def box_corners(boxes: Float[Tensor, "*n 9"]) -> Float[Tensor, "*n 8 3"]:
    """The eight corners, metres: the footprint's four at the bottom, then the same at the top."""
    footprint = footprint_corners(boxes)
    half_height = boxes[..., None, 5:6] / 2
    middle = boxes[..., None, 2:3].expand_as(footprint[..., :1])
    bottom = torch.cat([footprint, middle - half_height], dim=-1)
    top = torch.cat([footprint, middle + half_height], dim=-1)
    return torch.cat([bottom, top], dim=-2)


def project(
    points: Float[Tensor, "*n 3"], image_from_cam: Float[Tensor, "3 3"]
) -> tuple[Float[Tensor, "*n 2"], Float[Tensor, "*n"]]:
    """Pinhole projection of camera-frame points.

    Args:
        points: Camera frame (x right, y down, z forward), metres.
        image_from_cam: Intrinsic matrix, pixels.

    Returns:
        Pixels (u, v) where integer values are pixel centres, and depth in metres. Pixels of
        points with depth <= 0 mean nothing.
    """
    depth = points[..., 2]
    pixels = points @ image_from_cam.mT
    return pixels[..., :2] / depth.clamp(min=1e-6)[..., None], depth
