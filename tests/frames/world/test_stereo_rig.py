"""The rig against KITTI's numbers, and disparity between its two views."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from frames.kitti.stereo import focal_baseline
from frames.world.config import KittiWorldConfig
from frames.world.scene import Scene, build_scene
from frames.world.sensors import Sensor
from frames.world.stereo_rig import HIGHEST_BEAM, LOWEST_BEAM, StereoRig, stereo_rig
from frames.world.views import CAMERA_SIGHT, look, radiance
from tests.frames.world.kitti_worlds import TINY

SHARP = TINY.model_copy(update={"image_size": (188, 621)})


@pytest.fixture(scope="module")
def scene() -> Scene:
    return build_scene(SHARP, "world_train", 0)


@pytest.fixture(scope="module")
def rig() -> StereoRig:
    return stereo_rig(SHARP)


def camera_depth(scene: Scene, sensor: Sensor) -> np.ndarray:
    """z of what each pixel shows, metres; inf where it shows the sky."""
    view = look(scene, sensor, 0.0, CAMERA_SIGHT)
    depth: np.ndarray = view.hits.depth * sensor.directions[..., 2]
    return depth


def test_the_default_is_kittis_own():
    rig = stereo_rig(KittiWorldConfig())
    projections = rig.calibration.image_from_rect
    intrinsic = np.array([[721.5377, 0, 609.5593], [0, 721.5377, 172.854], [0, 0, 1]])
    for projection, right in zip(projections, (0, 0.54, -0.06, 0.48), strict=True):
        np.testing.assert_allclose(projection[:, :3], intrinsic)
        np.testing.assert_allclose(projection[:, 3], [-721.5377 * right, 0, 0], atol=1e-9)
    assert rig.left.ground.shape == (375, 1242)
    # The camera is 1.65 m above the ground: the last row, 201.146 pixels below the horizon.
    level = rig.left.directions[374, 610, 2] * rig.left.ground[374, 610]
    assert level == pytest.approx(1.65 * 721.5377 / 201.146, rel=1e-4)


def test_the_lidar_stands_behind_and_above_the_camera():
    rig = stereo_rig(KittiWorldConfig())
    seen = rig.calibration.ego_from_lidar
    np.testing.assert_allclose(seen.rotation, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(seen.translation, [-0.27, 0, 0.08], atol=1e-12)
    # Both of the matrices in between turn, as in KITTI's files.
    assert np.abs(rig.calibration.rect_from_cam - np.eye(3)).max() > 0.005
    assert rig.lidar.elevations[[0, -1]].tolist() == [LOWEST_BEAM, HIGHEST_BEAM]


def test_fields_of_view():
    def focal(**lens: object) -> float:
        return KittiWorldConfig.model_validate({"image_size": (60, 200)} | lens).focal_length

    assert focal(field=90) == pytest.approx(100)
    assert focal(focal=321.5) == 321.5
    assert focal() == pytest.approx(721.5377 * 200 / 1242)
    with pytest.raises(ValidationError, match="both say how wide the cameras look; give one"):
        focal(field=90, focal=100)


def test_the_pair_has_the_baseline_it_is_given():
    config = KittiWorldConfig(image_size=(257, 308), focal=458.3, baseline=0.2986)
    calibration = stereo_rig(config).calibration
    left, right = (calibration.camera(index, Path(), config.image_size) for index in (2, 3))
    assert focal_baseline(left, right) == pytest.approx(458.3 * 0.2986)


@pytest.mark.parametrize(("stretch", "holds"), [(1.0, True), (1.1, False)])
def test_disparity_is_focal_length_times_baseline_over_depth(
    scene: Scene, rig: StereoRig, stretch: float, holds: bool
):
    left, right = camera_depth(scene, rig.left), camera_depth(scene, rig.right)
    product = stretch * SHARP.focal_length * SHARP.baseline
    with np.errstate(divide="ignore"):
        disparity = product / left
    # Where disparity is a whole number of pixels, to 0.02, a pixel of the right image looks at it.
    rows, cols = np.nonzero(np.isfinite(left) & (np.abs(disparity - disparity.round()) < 0.02))
    shift = disparity[rows, cols].round().astype(int)
    there = shift <= cols
    rows, cols, shift = rows[there], cols[there], shift[there]
    expected, found = left[rows, cols], right[rows, cols - shift]
    slack = 0.03 * expected**2 / product
    assert len(rows) > 2000
    # Either that very point, or something before it that only the right camera has in its way.
    fits = float((found < expected + slack).mean())
    equal = float((np.abs(found - expected) < slack).mean())
    assert (fits > 0.995 and equal > 0.9) == holds, (fits, equal)


def test_both_eyes_see_the_same_colours(scene: Scene, rig: StereoRig):
    left, right = (
        radiance(scene, sensor, look(scene, sensor, 0.0, CAMERA_SIGHT))
        for sensor in (rig.left, rig.right)
    )
    disparity = SHARP.focal_length * SHARP.baseline / camera_depth(scene, rig.left)
    rows, cols = np.nonzero((np.abs(disparity - disparity.round()) < 0.02) & (disparity > 0.5))
    shift = disparity[rows, cols].round().astype(int)
    there = shift <= cols
    pairs = left[rows[there], cols[there]] - right[rows[there], (cols - shift)[there]]
    assert np.quantile(np.abs(pairs), 0.9) < 0.02
    # Unshifted they differ: there is something to measure.
    assert np.quantile(np.abs(left - right)[rows, cols], 0.9) > 0.1


def test_a_sector_holds_the_columns_of_a_whole_turn(scene: Scene, rig: StereoRig):
    around = stereo_rig(SHARP.model_copy(update={"lidar_sector": 360.0})).lidar
    sector = rig.lidar
    count = sector.ground.shape[1]
    assert (count, around.ground.shape[1]) == (139, 500)
    azimuth = np.degrees(np.arctan2(sector.directions[0, :, 1], sector.directions[0, :, 0]))
    assert azimuth[[0, -1]] == pytest.approx([-49.68, 49.68], abs=1e-3)
    first = np.abs(around.directions - sector.directions[:, :1]).sum((0, 2)).argmin()
    found, expected = (look(scene, sensor, 0.0, 60.0).hits for sensor in (sector, around))
    for name in ("depth", "part", "face"):
        whole = getattr(expected, name)
        np.testing.assert_array_equal(getattr(found, name), whole[:, first : first + count])
    assert (found.part >= 0).mean() > 0.1


def test_a_half_of_a_sector_is_a_half_of_its_view(scene: Scene, rig: StereoRig):
    # Solids that reach over the edge of the grid are cut there, not moved to its other side.
    half = replace(
        rig.lidar, directions=rig.lidar.directions[:, :70], ground=rig.lidar.ground[:, :70]
    )
    found, whole = (look(scene, sensor, 0.0, 60.0).hits for sensor in (half, rig.lidar))
    np.testing.assert_array_equal(found.part, whole.part[:, :70])
