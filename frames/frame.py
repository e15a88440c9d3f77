"""What one time step is: metadata only, so that a Frame pickles small."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from frames.boxes import Boxes3D
from frames.geometry import SE3


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """One image of a frame.

    Attributes:
        name: Channel, for example ``CAM_FRONT``.
        path: Image file.
        size: (height, width), pixels.
        image_from_cam: Intrinsic matrix, pixels; integer pixels are pixel centres.
        ego_from_cam: Camera (x right, y down, z forward) at its own exposure to the ego frame of
            the frame's LiDAR time: the ego's motion in between is in it.
    """

    name: str
    path: Path
    size: tuple[int, int]
    image_from_cam: Float64[np.ndarray, "3 3"]
    ego_from_cam: SE3


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """One LiDAR turn of a frame; the first of a frame's sweeps is its own, the others lie before.

    Attributes:
        path: Point file: float32 x y z intensity and what follows (nuScenes: ring); gzipped if its
            name ends in ``.gz``.
        ego_from_lidar: Sensor at its own time to the ego frame of the frame's LiDAR time.
        time_lag: Seconds before the frame's LiDAR time, >= 0.
        floats: Numbers of a point in the file: 5 in nuScenes, 4 in KITTI.
        seen_by: Only the points that this camera sees count; None lets all count.
    """

    path: Path
    ego_from_lidar: SE3
    time_lag: float
    floats: int = 5
    seen_by: Camera | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One key frame. "Ego" is the ego frame at the LiDAR's time stamp (KITTI: pseudo-LiDAR).

    Attributes:
        token: Identity, the data set's own.
        scene: Name of the scene it belongs to.
        timestamp_us: Microseconds since the epoch; 0 where the data set has no time.
        global_from_ego: Ego pose.
        cameras: In the reader's order.
        sweeps: Key sweep first, then earlier ones by age.
        boxes: Ground truth after the filter, ego frame.
        prev: Token of the frame before it in its scene, "" at the start.
        next: Token of the frame after it, "" at the end.
        teacher_score: None where its annotations were read. Else they are hidden
            (``frames/labelled.py``): it has no boxes, and in a cache a teacher's detections of at
            least this score stand for them.
    """

    token: str
    scene: str
    timestamp_us: int
    global_from_ego: SE3
    cameras: tuple[Camera, ...]
    sweeps: tuple[Sweep, ...]
    boxes: Boxes3D
    prev: str
    next: str
    teacher_score: float | None = None

    @property
    def unlabelled(self) -> bool:
        """Whether its annotations are hidden."""
        return self.teacher_score is not None
