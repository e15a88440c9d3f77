"""The classes of nuScenes and KITTI in the field's usual order; labels index such a tuple."""

from typing import Final

# The ten of the nuScenes detection task, as mmdet3d orders them.
DETECTION_CLASSES = (
    "car",
    "truck",
    "construction_vehicle",
    "bus",
    "trailer",
    "barrier",
    "motorcycle",
    "bicycle",
    "pedestrian",
    "traffic_cone",
)

# The three that KITTI scores, as OpenPCDet and LIGA-Stereo order them.
KITTI_CLASSES: Final = ("Car", "Pedestrian", "Cyclist")
