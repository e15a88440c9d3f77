"""A frame's points and pixels, read from its files."""

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image
from torch import Tensor

from frames.camera_view import sees
from frames.errors import DataError
from frames.frame import Camera, Frame, Sweep

FLOAT_BYTES = 4


def load_points(frame: Frame, min_distance: float = 1.0) -> Float32[Tensor, "n 5"]:
    """The points of all sweeps, in the frame's ego frame.

    Args:
        frame: Where to read.
        min_distance: Half the side, metres, of the square about each sensor whose points are
            dropped (they are the car's own roof); the devkit's ``remove_close``.

    Returns:
        x y z in metres, intensity as stored (0..255 in nuScenes, 0..1 in KITTI), seconds before
        the frame's LiDAR time; the key sweep first.

    Raises:
        DataError: A file is missing or damaged.
    """
    return torch.from_numpy(
        np.concatenate([_load_sweep(sweep, frame.token, min_distance) for sweep in frame.sweeps])
    )


def load_images(frame: Frame) -> list[Image.Image]:
    """The frame's images, RGB, in the order of its cameras.

    Raises:
        DataError: A file is missing or damaged, or its size is not the camera's.
    """
    return [_load_image(camera, frame.token) for camera in frame.cameras]


def check_point_files(frames: Sequence[Frame], sweeps: int | None = None) -> None:
    """Refuse, before anything runs, frames whose point files are not all there.

    Args:
        frames: To check.
        sweeps: Look at the newest so many sweeps of each; None looks at all.

    Raises:
        DataError: Naming the first missing file and how many there are.
    """
    _check_files([(frame.token, sweep.path) for frame in frames for sweep in frame.sweeps[:sweeps]])


def check_image_files(frames: Sequence[Frame]) -> None:
    """Refuse, before anything runs, frames whose images are not all there.

    Raises:
        DataError: Naming the first missing file and how many there are.
    """
    _check_files([(frame.token, camera.path) for frame in frames for camera in frame.cameras])


def _check_files(wanted: list[tuple[str, Path]]) -> None:
    missing = [(token, path) for token, path in wanted if not path.is_file()]
    if missing:
        token, path = missing[0]
        raise DataError(
            f"frame {token}: no file {path} ({len(missing)} of {len(wanted)} files are missing); "
            "unpack the blobs that hold them, or choose a split that is complete"
        )


def _load_sweep(sweep: Sweep, token: str, min_distance: float) -> Float32[np.ndarray, "n 5"]:
    points = _read_points(sweep, token)
    close = (np.abs(points[:, :2]) < min_distance).all(axis=1)
    points = points[~close]
    # In float64, as the devkit moves them: the result then differs by rounding alone.
    xyz = sweep.ego_from_lidar.apply(points[:, :3].astype(np.float64))
    if sweep.seen_by is not None:
        seen = sees(sweep.seen_by, torch.from_numpy(xyz)).numpy()
        points, xyz = points[seen], xyz[seen]
    time_lag = np.full((len(points), 1), sweep.time_lag)
    moved: np.ndarray = np.concatenate([xyz, points[:, 3:4], time_lag], axis=1)
    return moved.astype(np.float32)


def _read_points(sweep: Sweep, token: str) -> Float32[np.ndarray, "n c"]:
    path, point_bytes = sweep.path, FLOAT_BYTES * sweep.floats
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, token, str(error)) from error
    if not content or len(content) % point_bytes:
        found = f"{len(content)} bytes, not a positive multiple of {point_bytes}"
        raise _unreadable(path, token, found)
    points: np.ndarray = np.frombuffer(content, dtype="<f4").reshape(-1, sweep.floats)
    if not np.isfinite(points).all():
        raise _unreadable(path, token, "numbers that are not finite")
    return points


def _load_image(camera: Camera, token: str) -> Image.Image:
    try:
        with Image.open(camera.path) as image:
            rgb = image.convert("RGB")
    except (OSError, SyntaxError) as error:  # Pillow's own two for a damaged file
        raise _unreadable(camera.path, token, str(error)) from error
    if (rgb.height, rgb.width) != camera.size:
        found = f"{rgb.height} x {rgb.width} pixels, not {camera.size[0]} x {camera.size[1]}"
        raise _unreadable(camera.path, token, found)
    return rgb


def _unreadable(path: Path, token: str, found: str) -> DataError:
    return DataError(
        f"frame {token}: cannot use {path}: {found}; unpack that file again "
        "(or ask for fewer sweeps or cameras if it was never there)"
    )
