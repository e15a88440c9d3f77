"""The stereo pair: focal length times baseline, and the flip of a stereo frame.

Mirroring a stereo pair swaps its eyes: the new left image is the mirrored right one. With images
and cameras flipped here, the rest of the frame is mirrored by
``BevAugment.compose(flip_y=True)``: points y -> -y, boxes (x, -y, z, l, w, h, -yaw), cached
targets alike. The flipped cameras are in that mirrored frame already: they project mirrored points
to mirrored pixels.
"""

from dataclasses import replace

import numpy as np
from PIL import Image, ImageOps

from frames.camera_view import image_from_ego
from frames.errors import DataError
from frames.frame import Camera
from frames.geometry import SE3

MIRRORED_EGO = np.diag([1.0, -1.0, 1.0])
MIRRORED_CAM = np.diag([-1.0, 1.0, 1.0])


def focal_baseline(left: Camera, right: Camera) -> float:
    """Focal length times baseline of a pair, pixels x metres: disparity = this / depth.

    KITTI's ``abs(P2[0, 3] - P3[0, 3])``, as LIGA-Stereo's calibration_kitti.py has it.
    """
    return abs(float(image_from_ego(left)[0, 3] - image_from_ego(right)[0, 3]))


def flip_cameras(left: Camera, right: Camera) -> tuple[Camera, Camera]:
    """The (left, right) cameras of the mirrored frame.

    P2 and P3 change places, each with the principal point at width - 1 - cx and its x translation
    negated. The paths are those of the images to be mirrored: ``flip_images``.

    Raises:
        DataError: The two images differ in width.
    """
    if left.size[1] != right.size[1]:
        raise DataError(
            f"{left.path} is {left.size[1]} pixels wide and {right.path} {right.size[1]}; "
            "a stereo pair has one size: rectify both to the same"
        )
    return replace(_mirrored(right), name=left.name), replace(_mirrored(left), name=right.name)


def flip_images(left: Image.Image, right: Image.Image) -> tuple[Image.Image, Image.Image]:
    """The (left, right) images of the mirrored frame."""
    return ImageOps.mirror(right), ImageOps.mirror(left)


def _mirrored(camera: Camera) -> Camera:
    mirrored_image = np.diag([-1.0, 1.0, 1.0])
    mirrored_image[0, 2] = camera.size[1] - 1
    pose = camera.ego_from_cam
    return replace(
        camera,
        image_from_cam=mirrored_image @ camera.image_from_cam @ MIRRORED_CAM,
        ego_from_cam=SE3(
            MIRRORED_EGO @ pose.rotation @ MIRRORED_CAM, MIRRORED_EGO @ pose.translation
        ),
    )
