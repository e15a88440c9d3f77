"""A tiny KITTI world on disk: the reader and the scorer take it like any other tree."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from frames.camera_view import project_ego, sees
from frames.detection_classes import KITTI_CLASSES
from frames.kitti.config import KittiConfig
from frames.kitti.difficulty import rescaled_difficulties
from frames.kitti.labels import KittiObject
from frames.kitti.reader import KittiFrame, read_frames
from frames.kitti.scoring import Metric, as_detections, as_labels, score_kitti
from frames.loading import load_images, load_points
from frames.world.config import SPLITS, KittiWorldConfig
from frames.world.kitti_tree import is_complete, tokens, write_kitti_world
from frames.world.scene import FRAME_SECONDS, build_scene
from frames.world.stereo_rig import stereo_rig
from frames.world.tree import WorldMismatchError
from frames.world.views import CAMERA_SIGHT, PIXEL_NOISE, look, radiance
from tests.command import command, succeed
from tests.frames.world.kitti_worlds import TINY


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kitti_world")
    write_kitti_world(TINY, root, workers=1)
    return root


@pytest.fixture(scope="module")
def frames(root: Path) -> list[KittiFrame]:
    return read_frames(KittiConfig(root=root, split="training"))


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_the_tree(root: Path):
    assert sorted(path.name for path in root.iterdir()) == ["ImageSets", "training"]
    assert {path.name for path in (root / "ImageSets").iterdir()} == {
        "world.json", "world_train.txt", "world_val.txt",
    }  # fmt: skip
    names = {p.relative_to(root / "training").as_posix() for p in root.glob("training/*/*")}
    endings = {
        "calib": "txt", "label_2": "txt", "image_2": "png", "image_3": "png", "velodyne": "bin",
    }  # fmt: skip
    assert names == {
        f"{folder}/{number:06d}.{ending}"
        for folder, ending in endings.items()
        for number in range(6)
    }
    record = json.loads((root / "ImageSets" / "world.json").read_text())
    assert KittiWorldConfig.model_validate(record["config"]) == TINY


def test_splits(root: Path):
    for split, expected in zip(SPLITS, (range(4), range(4, 6)), strict=True):
        found = [frame.token for frame in read_frames(KittiConfig(root=root, split=split))]
        assert found == [f"{number:06d}" for number in expected] == tokens(TINY, split)


def test_two_workers_write_the_same_bytes_as_one(root: Path, tmp_path: Path):
    calls: list[tuple[int, int]] = []
    write_kitti_world(TINY, tmp_path, 2, lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert digests(tmp_path) == digests(root)


def test_another_seed_is_another_world(root: Path, tmp_path: Path):
    other = TINY.model_copy(update={"seed": 1, "train_scenes": 1, "val_scenes": 0})
    write_kitti_world(other, tmp_path, workers=1)
    sensed = {name: digest for name, digest in digests(root).items() if "calib" not in name}
    assert not set(digests(tmp_path).values()) & set(sensed.values())


def test_a_world_that_is_there_is_reused(root: Path):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert is_complete(root, TINY)
    write_kitti_world(TINY, root)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_an_interrupted_world_goes_on(root: Path, tmp_path: Path):
    class StopError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise StopError(f"{done} of {total}")

    with pytest.raises(StopError, match="1 of 3"):
        write_kitti_world(TINY, tmp_path, workers=1, on_scene=stop)
    assert not is_complete(tmp_path, TINY)
    assert not (tmp_path / "ImageSets").exists()
    with pytest.raises(WorldMismatchError, match=r"ImageSets\.part is of another world"):
        write_kitti_world(TINY.model_copy(update={"seed": 7}), tmp_path)
    # The first scene is done; of the second there is a torn file.
    first = tmp_path / "training" / "image_2" / "000000.png"
    written = first.stat().st_mtime_ns
    (tmp_path / "training" / "image_2" / "000002.png").write_bytes(b"torn")
    write_kitti_world(TINY, tmp_path, workers=1)
    assert first.stat().st_mtime_ns == written
    assert digests(tmp_path) == digests(root)


def test_other_trees_are_refused(root: Path, tmp_path: Path):
    with pytest.raises(WorldMismatchError, match=r"is of another world .*; give another folder"):
        write_kitti_world(TINY.model_copy(update={"baseline": 0.3}), root)
    # A KITTI tree as it is unpacked, with and without lists.
    (tmp_path / "training" / "image_2").mkdir(parents=True)
    with pytest.raises(WorldMismatchError, match="no world of this project; give another folder"):
        write_kitti_world(TINY, tmp_path)
    (tmp_path / "ImageSets").mkdir()
    with pytest.raises(WorldMismatchError, match=r"is of another world \(None\)"):
        write_kitti_world(TINY, tmp_path)
    assert not list(tmp_path.rglob("*.png"))


def test_labels_come_back_rounded_as_kittis(root: Path, frames: list[KittiFrame]):
    for frame in frames:
        assert frame.objects
        for line in (root / "training" / "label_2" / f"{frame.token}.txt").read_text().splitlines():
            kind, truncation, level, *numbers = line.split()
            if kind != "DontCare":
                assert 0 <= float(truncation) <= 1
                assert level in "0123"
                assert all(len(number.split(".")[1]) == 2 for number in numbers)
                # On the ground: the box's bottom is the camera's height below it.
                assert float(numbers[9]) == pytest.approx(1.65, abs=0.005)


def test_returns_of_the_lidar_lie_on_the_objects(frames: list[KittiFrame]):
    hit, seen = 0, 0
    for frame in frames:
        cloud = load_points(frame)
        assert cloud[:, 3].min() >= 0
        assert 0.5 < cloud[:, 3].max() <= 1
        for thing in frame.objects:
            if thing.box is None or thing.occlusion > 0 or thing.box[0] > 25:
                continue
            x, y, z, length, width, height, yaw = thing.box
            turn = torch.tensor(yaw)
            offset = cloud[:, :2] - torch.tensor([x, y])
            ahead = offset @ torch.stack([turn.cos(), turn.sin()])
            aside = offset @ torch.stack([-turn.sin(), turn.cos()])
            inside = (ahead.abs() < length / 2 + 0.05) & (aside.abs() < width / 2 + 0.05)
            above = (cloud[:, 2] - z).abs() < height / 2 + 0.05
            hit += bool((inside & above).sum() >= 3)
            seen += 1
        # The road lies 1.65 m below the camera.
        low = cloud[:, 2] < -1.5
        assert cloud[low, 2].median() == pytest.approx(-1.65, abs=0.02)
    assert seen > 20
    assert hit >= 0.9 * seen


def differing(frame: KittiFrame, shift: int) -> list[bool]:
    """Whether the images differ in colour where they show a LiDAR point, the right one shifted."""
    points = load_points(frame)[:, :3].double()
    points = points[(points[:, 0] < 15) & (points[:, 2] > -1.4)]
    points = points[sees(frame.cameras[0], points) & sees(frame.cameras[1], points)]
    colours = []
    for image, camera, offset in zip(load_images(frame), frame.cameras, (0, shift), strict=True):
        cols, rows = project_ego(camera, points)[0].round().long().T.numpy()
        shown = np.asarray(image).astype(float)
        colours.append(shown[rows, (cols + offset).clip(0, shown.shape[1] - 1)])
    return list(np.abs(colours[0] - colours[1]).mean(1) > 25)


def test_a_point_has_one_colour_in_both_images(frames: list[KittiFrame]):
    # The pixel nearest to a point may be its neighbour's along edges.
    shares = {
        shift: np.mean([differs for frame in frames for differs in differing(frame, shift)])
        for shift in (-4, 0, 4)
    }
    assert shares[0] < 0.5 * min(shares[-4], shares[4]), shares


def test_one_exposure_and_independent_noise(root: Path):
    scene, rig = build_scene(TINY, "world_train", 1), stereo_rig(TINY)
    exposures, noises = [], []
    for sensor in (rig.left, rig.right):
        picture = radiance(scene, sensor, look(scene, sensor, FRAME_SECONDS, CAMERA_SIGHT))
        with Image.open(root / "training" / sensor.name / "000003.png") as image:
            shown = (np.asarray(image) + 0.5) / 255
        inner = shown < 0.99
        exposures.append((shown * picture)[inner].sum() / (picture[inner] ** 2).sum())
        noises.append(np.where(inner, shown - exposures[-1] * picture, 0))
        assert noises[-1][inner].std() == pytest.approx(PIXEL_NOISE, rel=0.05)
    assert exposures[0] == pytest.approx(exposures[1], rel=0.005)
    assert 0.9 <= exposures[0] <= 1.1
    assert abs(np.corrcoef(noises[0].ravel(), noises[1].ravel())[0, 1]) < 0.03


def test_the_scorer_finds_labels_right(frames: list[KittiFrame]):
    labels = {frame.token: as_labels(frame.objects) for frame in frames}
    found = {frame.token: as_detections(_scored(frame.objects)) for frame in frames}
    scores = score_kitti(labels, found, rescaled_difficulties(TINY.focal_length))
    for kind in KITTI_CLASSES:
        curves = [c for s, c in scores.items() if s.kind == kind and s.metric is Metric.AP_3D]
        assert set(np.concatenate([curve.values for curve in curves])) == {0.0, 1.0}


def _scored(objects: tuple[KittiObject, ...]) -> list[KittiObject]:
    return [
        KittiObject(
            kind=thing.kind,
            truncation=-1,
            occlusion=-1,
            alpha=thing.alpha,
            bbox=thing.bbox,
            box=thing.box,
            score=1.0 / (1 + number),
        )
        for number, thing in enumerate(objects)
        if thing.kind in KITTI_CLASSES
    ]


def test_there_is_enough_to_learn_from(frames: list[KittiFrame]):
    near = [int((frame.boxes.values[:, 0] <= 35).sum()) for frame in frames]
    assert np.mean(near) >= 5
    assert min(near) >= 1


def test_the_command(root: Path, tmp_path: Path):
    toml = tmp_path / "world.toml"
    toml.write_text(
        'tree = "kitti"\ntrain_scenes = 2\nval_scenes = 1\nframes_per_scene = 2\n'
        "image_size = [48, 160]\nbeams = 24\nazimuth_steps = 500\nlidar_range = 40.0\n"
        "objects_per_frame = [50, 60]\n"
    )
    assert json.loads(succeed("make-world", toml, "--print-config", "--out", tmp_path)) == (
        TINY.model_dump(mode="json")
    )
    succeed("make-world", toml, "--out", tmp_path / "out", "--workers", 1)
    assert digests(tmp_path / "out") == digests(root)
    toml.write_text(toml.read_text() + "baselime = 1.0\n")
    code, text = command("make-world", toml, "--out", tmp_path / "other")
    assert (code, "baselime: unknown key; did you mean 'baseline'" in text) == (1, True)
    toml.write_text("baseline = 1.0\n")
    code, text = command("make-world", toml, "--out", tmp_path / "other")
    assert (code, "baseline: unknown key" in text) == (1, True), "a nuScenes world has none"
