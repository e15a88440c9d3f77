"""Which frames of a KITTI tree to read, and which labels are ground truth."""

from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, PositiveInt

from frames.detection_classes import KITTI_CLASSES
from frames.kitti.difficulty import Scheme
from frames.labelled import FewLabels

KittiClass = Literal["Car", "Pedestrian", "Cyclist"]
KittiCamera = Literal["image_2", "image_3"]
Range = tuple[float, float, float, float, float, float]

# LIGA-Stereo, kitti_dataset_fused.yaml: POINT_CLOUD_RANGE, GT_TRUNCATED_THRESH.
LIGA_RANGE: Range = (2.0, -30.4, -3.0, 59.6, 30.4, 1.0)
LIGA_MAX_TRUNCATION = 0.98


class KittiConfig(FewLabels):
    """Which frames of a KITTI object tree to read, and which labels are ground truth.

    See ``FewLabels`` for frames without labels.

    Attributes:
        dataset: Which data set this is; see ``frames/dataset.py``.
        root: Folder that holds ``training``, ``testing`` and ``ImageSets``.
        split: A list of ``ImageSets`` without ``.txt`` (train, val, trainval, test); or
            ``training`` or ``testing``, every frame that folder has a calibration of; or the
            token of one training frame.
        sweeps: The benchmark has one a frame.
        cameras: Images to read, in this order. Empty reads none, for LiDAR teachers and scoring.
        lidar: Folder of the point files (``.bin``, or ``.bin.gz``).
        in_view: Whether only points that the left image shows count, as KITTI's labels do.
        image_size: (height, width), pixels, of the left images that are not here; those that are
            say it themselves.
        difficulties: By which scheme labels are easy, moderate or hard; see
            ``frames/kitti/difficulty.py``. ``rescaled`` is for images that are not KITTI's size.
        classes: What counts; labels index this tuple.
        van_as_car: Whether a Van is a Car.
        sitting_as_pedestrian: Whether a Person_sitting is a Pedestrian.
        max_truncation: Objects truncated as much or more are no ground truth.
        box_range: Minimal x y z, then maximal, metres, pseudo-LiDAR frame; a box counts if it has
            a corner inside.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: Literal["kitti"] = "kitti"
    root: Path
    split: str
    sweeps: Literal[1] = 1
    cameras: tuple[KittiCamera, ...] = ("image_2", "image_3")
    lidar: Literal["velodyne", "velodyne_reduced"] = "velodyne"
    in_view: bool = True
    image_size: tuple[PositiveInt, PositiveInt] | None = None
    difficulties: Scheme = "kitti"
    classes: tuple[KittiClass, ...] = Field(KITTI_CLASSES, min_length=1)
    van_as_car: bool = True
    sitting_as_pedestrian: bool = True
    max_truncation: float = Field(LIGA_MAX_TRUNCATION, gt=0)
    box_range: Range = LIGA_RANGE

    @property
    def version(self) -> str:
        """Which of KITTI's benchmarks."""
        return "object"

    @property
    def ground_truth_filter(self) -> dict[str, Any]:
        """What decides which labels are ground truth; part of a cache's fingerprint."""
        return {
            "classes": list(self.classes),
            "van_as_car": self.van_as_car,
            "sitting_as_pedestrian": self.sitting_as_pedestrian,
            "max_truncation": self.max_truncation,
            "box_range": list(self.box_range),
            **self.hidden_filter,
        }
