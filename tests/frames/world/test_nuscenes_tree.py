"""A tiny world on disk: the devkit reads it, and finds what the scene holds."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from nuscenes import NuScenes
from nuscenes.utils.data_classes import LidarPointCloud
from nuscenes.utils.geometry_utils import points_in_box
from nuscenes.utils.splits import get_scenes_of_custom_split, is_predefined_split
from PIL import Image
from pydantic import ValidationError

from frames.world.config import SPLITS, VERSION, WorldConfig, version_folder
from frames.world.nuscenes_scene import token
from frames.world.nuscenes_tree import is_complete, write_world
from frames.world.scene import build_scene
from frames.world.tracks import at
from frames.world.tree import WorldMismatchError

TINY = WorldConfig(
    train_scenes=1,
    val_scenes=1,
    frames_per_scene=3,
    image_size=(32, 88),
    azimuth_steps=270,
    objects_per_frame=(25, 30),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_world(TINY, root, workers=1)
    return root


@pytest.fixture(scope="module")
def nusc(root: Path) -> NuScenes:
    return NuScenes(VERSION, str(root), verbose=False)


def _digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_two_workers_write_the_same_bytes_as_one(root: Path, tmp_path: Path):
    calls: list[tuple[int, int]] = []
    write_world(TINY, tmp_path, workers=2, on_scene=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]
    assert _digests(tmp_path) == _digests(root)


def test_another_seed_is_another_world(root: Path, tmp_path: Path):
    other = TINY.model_copy(update={"seed": 1, "val_scenes": 0})
    write_world(other, tmp_path, workers=1)
    assert not set(_digests(tmp_path).values()) & {
        digest for name, digest in _digests(root).items() if name.startswith("samples")
    }


def test_a_world_that_is_there_is_reused(root: Path):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert is_complete(root, TINY)
    write_world(TINY, root)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_another_world_is_refused(root: Path, tmp_path: Path):
    other = TINY.model_copy(update={"seed": 5})
    with pytest.raises(WorldMismatchError, match=r"is of another world .*give another folder"):
        write_world(other, root)
    (version_folder(tmp_path)).mkdir()
    with pytest.raises(WorldMismatchError, match="is of another world"):
        is_complete(tmp_path, TINY)


def test_no_tables_until_all_scenes_are_written(tmp_path: Path):
    class StopError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise StopError(f"{done} of {total}")

    with pytest.raises(StopError, match="1 of 2"):
        write_world(TINY, tmp_path, workers=1, on_scene=stop)
    assert not is_complete(tmp_path, TINY)


def test_impossible_worlds_are_refused():
    with pytest.raises(ValidationError, match="holds nothing"):
        WorldConfig(train_scenes=0, val_scenes=0)
    with pytest.raises(ValidationError, match="give \\(fewest, most\\)"):
        WorldConfig(objects_per_frame=(9, 3))


def test_splits(nusc: NuScenes):
    for split in SPLITS:
        assert not is_predefined_split(split)
        assert get_scenes_of_custom_split(split, nusc) == TINY.scene_names(split)
    assert {scene["name"] for scene in nusc.scene} == {
        name for split in SPLITS for name in TINY.scene_names(split)
    }


def test_point_counts_are_the_devkits(nusc: NuScenes):
    counts = []
    for sample in nusc.sample:
        path, boxes, _ = nusc.get_sample_data(sample["data"]["LIDAR_TOP"])
        cloud = LidarPointCloud.from_file(path).points[:3]
        for box in boxes:
            noted = nusc.get("sample_annotation", box.token)["num_lidar_pts"]
            assert noted == points_in_box(box, cloud).sum()
            counts.append(noted)
    assert 0.3 < np.mean(np.array(counts) > 0) < 1


def test_velocities_are_true(nusc: NuScenes):
    speeds = []
    scene = build_scene(TINY, "world_train", 0)
    for frame in range(TINY.frames_per_scene):
        for number, body in enumerate(scene.bodies):
            name = token(TINY.seed, "sample_annotation", scene.name, number, frame)
            if not body.category or name not in nusc._token2ind["sample_annotation"]:
                continue
            row = nusc.get("sample_annotation", name)
            found = nusc.box_velocity(name)[:2]
            if not row["prev"] and not row["next"]:
                assert np.isnan(found).all()
                continue
            ahead, behind = (at(scene.states, frame * 0.5 + s)[number] for s in (0.01, -0.01))
            true = (ahead - behind)[:2] / 0.02
            # A difference over a second cuts corners, and braking shows in the outer frames.
            np.testing.assert_allclose(found, true, atol=0.15 + 0.1 * float(np.linalg.norm(true)))
            speeds.append(np.linalg.norm(true))
    assert max(speeds) > 2
    assert min(speeds) == 0


def test_annotations_are_in_range_and_linked(nusc: NuScenes):
    for sample in nusc.sample:
        ego = nusc.get("ego_pose", sample["data"]["LIDAR_TOP"])["translation"]
        for name in sample["anns"]:
            row = nusc.get("sample_annotation", name)
            assert np.hypot(*np.subtract(row["translation"], ego)[:2]) <= TINY.lidar_range
            if row["next"]:
                assert nusc.get("sample_annotation", row["next"])["prev"] == name
    for instance in nusc.instance:
        count, name = 0, instance["first_annotation_token"]
        while name:
            count, last = count + 1, name
            name = nusc.get("sample_annotation", name)["next"]
        assert (count, last) == (instance["nbr_annotations"], instance["last_annotation_token"])


def test_a_parked_car_stays_where_it_is(nusc: NuScenes):
    parked = next(a["token"] for a in nusc.attribute if a["name"] == "vehicle.parked")
    rows = [r for r in nusc.sample_annotation if r["attribute_tokens"] == [parked] and r["next"]]
    assert rows
    for row in rows:
        after = nusc.get("sample_annotation", row["next"])
        assert (after["translation"], after["rotation"]) == (row["translation"], row["rotation"])


def test_sensor_files_and_their_chains(nusc: NuScenes, root: Path):
    for sample in nusc.sample:
        assert len(sample["data"]) == 7
        for channel, name in sample["data"].items():
            row = nusc.get("sample_data", name)
            lag = sample["timestamp"] - row["timestamp"]
            if channel == "LIDAR_TOP":
                assert lag == 0
                cloud = np.fromfile(root / row["filename"], dtype=np.float32).reshape(-1, 5)
                assert len(cloud) > 1000
            else:
                assert 0 < lag <= 43_000
                with Image.open(root / row["filename"]) as picture:
                    assert picture.size[::-1] == TINY.image_size == (row["height"], row["width"])
            assert nusc.get("ego_pose", row["ego_pose_token"])["timestamp"] == row["timestamp"]


def test_a_sweep_lies_between_two_key_frames(nusc: NuScenes):
    for scene in nusc.scene:
        name = nusc.get("sample", scene["first_sample_token"])["data"]["LIDAR_TOP"]
        chain = []
        while name:
            chain.append(nusc.get("sample_data", name))
            name = chain[-1]["next"]
        assert [row["is_key_frame"] for row in chain] == [True, False, True, False, True]
        stamps = np.diff([row["timestamp"] for row in chain])
        assert stamps.tolist() == [250_000] * 4


def test_the_devkit_gathers_several_sweeps(nusc: NuScenes):
    sample = nusc.get("sample", nusc.scene[0]["last_sample_token"])
    cloud, times = LidarPointCloud.from_file_multisweep(nusc, sample, "LIDAR_TOP", "LIDAR_TOP", 3)
    assert sorted(set(times[0].round(3).tolist())) == [0, 0.25, 0.5]
    # Still ground of all sweeps lies at the same height once moved to the key sweep.
    low = cloud.points[2] < -1.6
    assert np.median(cloud.points[2][low]) == pytest.approx(-1.84, abs=0.02)


def test_visibility_follows_the_pixels(nusc: NuScenes):
    levels = [row["visibility_token"] for row in nusc.sample_annotation]
    assert {"1", "4"} <= set(levels) <= {"1", "2", "3", "4"}
    points: dict[str, list[int]] = {level: [] for level in "1234"}
    for row in nusc.sample_annotation:
        points[row["visibility_token"]].append(row["num_lidar_pts"])
    assert np.mean(points["4"]) > 3 * np.mean(points["1"])


def test_the_record_of_the_configuration(root: Path):
    text = (version_folder(root) / "world.json").read_text()
    assert WorldConfig.model_validate(json.loads(text)["config"]) == TINY
    # As the first worlds have it, to the byte: they are still taken for what they are.
    assert text == (
        '{"format": 1, "config": {"train_scenes": 1, "val_scenes": 1, "frames_per_scene": 3, '
        '"sweeps_per_key": 1, "seed": 0, "image_size": [32, 88], "beams": 32, '
        '"azimuth_steps": 270, "lidar_range": 40.0, "objects_per_frame": [25, 30]}}'
    )
