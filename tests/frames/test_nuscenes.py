import gzip
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from frames.boxes import YAW
from frames.detection_classes import DETECTION_CLASSES
from frames.errors import DataError
from frames.geometry import wrap_angle
from frames.loading import check_image_files, check_point_files
from frames.nuscenes import NuScenesConfig, read_frames
from tests.frames.real_data import MINI, real, real_config
from tests.frames.tiny_nuscenes import T0, VERSION, write_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def own_tiny(tmp_path: Path) -> Path:
    """A tree the test may damage."""
    return write_tiny(tmp_path / "tree")


def config(root: Path, split: str = "scene-0061", **changes: Any) -> NuScenesConfig:
    return NuScenesConfig(**{"root": root, "version": VERSION, "split": split} | changes)


def test_a_frame_has_the_ego_frame_of_its_lidar_time(tiny: Path):
    first, second = read_frames(config(tiny))
    assert (first.token, first.prev, first.next) == ("a0", "", "a1")
    assert (second.token, second.prev, second.next) == ("a1", "a0", "")
    assert second.scene == "scene-0061"
    assert second.timestamp_us == T0 + 500_000
    np.testing.assert_allclose(second.global_from_ego.translation, [100, 52, 0])
    assert second.global_from_ego.yaw == pytest.approx(math.pi / 2)


def test_boxes_are_l_w_h_in_the_ego_frame_and_only_those_of_the_ten_classes(tiny: Path):
    frame = read_frames(config(tiny))[0]
    assert [DETECTION_CLASSES[label] for label in frame.boxes.labels] == list(DETECTION_CLASSES)
    car = [10, 13.5, 1, 4, 2, 1.5, 0, 2, 0]
    torch.testing.assert_close(frame.boxes.values[0], torch.tensor(car), atol=1e-5, rtol=0)


def test_the_point_filter_counts_radar_too_and_can_be_switched_off(tiny: Path):
    alone = read_frames(config(tiny, "scene-0103"))[0]
    assert len(alone.boxes) == 1
    assert len(read_frames(config(tiny, min_points=0))[0].boxes) == 11
    assert len(read_frames(config(tiny, min_points=6))[0].boxes) == 0


def test_a_velocity_the_devkit_cannot_estimate_is_zero(tiny: Path):
    alone = read_frames(config(tiny, "scene-0103"))[0]
    assert alone.boxes.values[0, 7:].tolist() == [0, 0]


def test_the_camera_pose_holds_the_egos_motion_since_its_exposure(tiny: Path):
    (camera,) = read_frames(config(tiny))[0].cameras
    # Exposed 0.1 s early at 4 m/s: 0.4 m behind its mount at x = 1.5 m.
    np.testing.assert_allclose(camera.ego_from_cam.translation, [1.1, 0, 1.5], atol=1e-9)
    forward = camera.ego_from_cam.rotation @ [0, 0, 1]
    np.testing.assert_allclose(forward, [1, 0, 0], atol=1e-9)
    assert camera.size == (20, 32)
    assert camera.image_from_cam[0, 2] == 15.5


def test_sweeps_go_back_in_time_and_stop_at_the_recordings_start(tiny: Path):
    sweeps = read_frames(config(tiny))[1].sweeps
    assert [sweep.time_lag for sweep in sweeps] == pytest.approx([0, 0.25, 0.5])
    moved = [sweep.ego_from_lidar.translation[0] for sweep in sweeps]
    assert moved == pytest.approx([1, 0, -1])
    assert len(read_frames(config(tiny, sweeps=2))[1].sweeps) == 2


def test_a_camera_the_sample_lacks_is_left_out(tiny: Path):
    assert read_frames(config(tiny, "scene-0103"))[0].cameras == ()
    assert read_frames(config(tiny, cameras=("CAM_BACK",)))[0].cameras == ()


@pytest.mark.parametrize(
    ("version", "split", "tokens"),
    [
        ("v1.0-mini", "mini_train", ["a0", "a1"]),
        ("v1.0-mini", "mini_val", ["b0"]),
        (VERSION, "tiny_train", ["a0", "a1"]),
        (VERSION, "scene-0103", ["b0"]),
    ],
)
def test_splits_are_predefined_or_from_splits_json_or_one_scene(
    tmp_path: Path, version: str, split: str, tokens: list[str]
):
    root = write_tiny(tmp_path / "tree", version)
    frames = read_frames(config(root, split, version=version))
    assert [frame.token for frame in frames] == tokens


@pytest.mark.parametrize(
    "content", ['{"a": ["scene-0061"', '["scene-0061"]', '{"a": "scene-0061"}']
)
def test_damaged_splits_are_named(tmp_path: Path, content: str):
    root = write_tiny(tmp_path / "tree")
    (root / VERSION / "splits.json").write_text(content)
    with pytest.raises(DataError, match=r"splits\.json is damaged \(.*\): .*write it again"):
        read_frames(config(root))


def test_a_split_of_which_scenes_are_missing_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    root = write_tiny(tmp_path / "tree", "v1.0-mini")
    read_frames(config(root, "mini_val", version="v1.0-mini"))
    assert "only 1 of its 2 scenes" in caplog.text


def test_limit_keeps_the_first_frames(tiny: Path):
    assert [frame.token for frame in read_frames(config(tiny), limit=1)] == ["a0"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "v1.0-test"}, r"no version 'v1.0-test'; it holds \['v1.0-tiny'\]"),
        ({"split": "val"}, r"no split 'val'; it knows \['gone', 'tiny_train', 'tiny_val'\]"),
        ({"split": "scene-7"}, "splits of one scene, scene-0061, scene-0103"),
        ({"split": "gone"}, "none of the 1 scenes of split 'gone' is in"),
    ],
)
def test_a_wrong_name_is_answered_with_the_names_there_are(
    tiny: Path, changes: dict[str, Any], message: str
):
    with pytest.raises(DataError, match=message):
        read_frames(config(tiny, **changes))


def test_a_wrong_root_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"no nuScenes folder at .*nowhere"):
        read_frames(config(tmp_path / "nowhere"))


def test_missing_tables_are_named(own_tiny: Path):
    (own_tiny / VERSION / "ego_pose.json").unlink()
    with pytest.raises(DataError, match=r"lacks the tables \['ego_pose'\]"):
        read_frames(config(own_tiny))


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        (f"{VERSION}/sample.json", "[{", "JSONDecodeError"),
        (f"{VERSION}/category.json", "[]", "KeyError"),
    ],
)
def test_damaged_tables_are_said_to_be_so(own_tiny: Path, path: str, content: str, message: str):
    (own_tiny / path).write_text(content)
    with pytest.raises(DataError, match=f"nuscenes-devkit cannot load .*{message}"):
        read_frames(config(own_tiny))


def test_a_missing_map_is_said_to_be_missing(own_tiny: Path):
    shutil.rmtree(own_tiny / "maps")
    with pytest.raises(DataError, match=r"map mask .* does not exist"):
        read_frames(config(own_tiny))


def test_missing_files_are_named_with_their_frame(own_tiny: Path):
    frames = read_frames(config(own_tiny))
    check_point_files(frames)
    check_image_files(frames)
    (own_tiny / "samples/CAM_FRONT/a1.jpg").unlink()
    (own_tiny / "samples/LIDAR_TOP/lidar-a1.pcd.bin").unlink()
    with pytest.raises(DataError, match=r"frame a1: no file .*a1.jpg \(1 of 2 files"):
        check_image_files(frames)
    with pytest.raises(DataError, match=r"frame a1: no file .*lidar-a1.pcd.bin"):
        check_point_files(frames)


def test_a_frame_without_lidar_is_refused(own_tiny: Path):
    table = own_tiny / VERSION / "sample_data.json"
    rows = [row for row in json.loads(table.read_text()) if row["token"] != "lidar-a0"]
    table.write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"frame a0 has no LIDAR_TOP key record .*\['CAM_FRONT'\]"):
        read_frames(config(own_tiny))


def test_an_unknown_camera_is_refused(tmp_path: Path):
    with pytest.raises(ValidationError, match="CAM_FRONT_LEFT"):
        config(tmp_path, cameras=("CAM_TOP",))


@real
def test_real_boxes_agree_with_mmdet3d():
    """Centres, sizes and yaws of scene-0061's first frame, which mmdet3d gives in its LiDAR."""
    frame = read_frames(real_config("scene-0061"))[0]
    path = MINI / "infos" / "scene-0061_first_sample.mmdet3d_v1.1.json"
    (info,) = json.loads(path.read_text())["data_list"]
    known = [box for box in info["instances"] if box["bbox_label_3d"] >= 0]
    expected = np.array([box["bbox_3d"] for box in known if box["num_lidar_pts"] > 0])
    lidar = frame.sweeps[0].ego_from_lidar
    centres = lidar.apply(expected[:, :3])
    ours = frame.boxes.values.double().numpy()
    nearest = np.linalg.norm(ours[:, None, :3] - centres[None], axis=-1).argmin(axis=1)
    assert sorted(nearest) == list(range(len(expected)))
    np.testing.assert_allclose(ours[:, :3], centres[nearest], atol=2e-2)
    np.testing.assert_allclose(ours[:, 3:6], expected[nearest, 3:6], atol=1e-3)
    turn = torch.from_numpy(ours[:, YAW] - expected[nearest, 6] - lidar.yaw)
    assert wrap_angle(turn).abs().max() < 1e-2


@real
def test_real_sweep_poses_agree_with_the_published_infos():
    """Ego pose of scene-0103's first frame, against the infos other people made."""
    with gzip.open(MINI / "infos" / "mini_val_infos_scene-0103_scene-0916.json.gz") as file:
        infos = json.load(file)["infos"]
    frame = read_frames(real_config("scene-0103"))[0]
    (info,) = (info for info in infos if info["token"] == frame.token)
    np.testing.assert_allclose(
        frame.global_from_ego.translation, info["ego2global_translation"], atol=1e-6
    )
    np.testing.assert_allclose(
        frame.sweeps[0].ego_from_lidar.translation, info["lidar2ego_translation"], atol=1e-6
    )
