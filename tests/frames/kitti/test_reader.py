import gzip
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from frames.errors import DataError
from frames.geometry import SE3
from frames.kitti.config import KittiConfig
from frames.kitti.reader import iterate_frames, read_frames, tokens_of_split
from frames.loading import check_image_files, check_point_files, load_images, load_points
from tests.frames.kitti.real_kitti import KITTI, KITTI_LIDAR, real
from tests.frames.kitti.tiny_kitti import SIZE, write_tiny


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tree")


def config(root: Path, split: str = "train", **changes: Any) -> KittiConfig:
    return KittiConfig(root=root, split=split, **changes)


def test_a_frame_by_hand(tiny: Path):
    (frame,) = read_frames(config(tiny))
    assert (frame.token, frame.scene, frame.timestamp_us) == ("000003", "training", 0)
    assert (frame.prev, frame.next) == ("", "")
    assert np.array_equal(frame.global_from_ego.matrix, np.eye(4))
    assert [camera.name for camera in frame.cameras] == ["image_2", "image_3"]
    assert frame.view.path == frame.cameras[0].path
    assert (frame.view.size, len(frame.objects), len(frame.boxes)) == (SIZE, 8, 4)


def test_its_images_and_points_are_loaded_as_any_frames(tiny: Path):
    (frame,) = read_frames(config(tiny))
    check_image_files([frame])
    check_point_files([frame])
    left, right = load_images(frame)
    assert (left.getpixel((9, 9)), right.getpixel((9, 9))) == ((200, 30, 60), (60, 30, 200))
    # The Velodyne stands 0.3 m behind; of its three points the left image shows one.
    torch.testing.assert_close(load_points(frame), torch.tensor([[9.4, 1.0, 0.5, 0.25, 0.0]]))


def test_all_points_where_the_view_does_not_matter(tiny: Path):
    (frame,) = read_frames(config(tiny, in_view=False))
    assert load_points(frame)[:, 3].tolist() == [0.25, 0.5, 1.0]


def test_points_may_be_gzipped(tiny: Path):
    path = tiny / "training/velodyne/000003.bin"
    (tiny / "training/velodyne/000003.bin.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert len(load_points(read_frames(config(tiny))[0])) == 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda packed: packed[:-9], "ended before"),
        (lambda packed: b"x" + packed, "Not a gzipped file"),
        (lambda packed: packed[:12] + b"\xff" + packed[13:], "invalid|CRC|decompressing"),
    ],
)
def test_a_damaged_gzip_is_named(tiny: Path, damage: Any, message: str):
    path = tiny / "training/velodyne/000003.bin"
    damaged = damage(gzip.compress(path.read_bytes()))
    (tiny / "training/velodyne/000003.bin.gz").write_bytes(damaged)
    path.unlink()
    with pytest.raises(DataError, match=rf"cannot use .*000003\.bin\.gz: .*({message})"):
        load_points(read_frames(config(tiny))[0])


@pytest.mark.parametrize(
    ("split", "tokens"),
    [
        ("train", ["000003"]),
        ("trainval", ["000003", "000000"]),
        ("training", ["000000", "000003"]),
        ("testing", ["000000"]),
        ("test", ["000000"]),
        ("000003", ["000003"]),
    ],
)
def test_the_splits_of_a_tree(tiny: Path, split: str, tokens: list[str]):
    folder, found = tokens_of_split(config(tiny, split))
    assert found == tokens
    assert folder == tiny / ("testing" if split in ("test", "testing") else "training")


def test_a_frame_that_is_listed_twice_is_named(tiny: Path):
    (tiny / "ImageSets/train.txt").write_text("000003\n000000\n000003\n")
    with pytest.raises(DataError, match=r"train.txt names frames more than once \(1: 000003\)"):
        tokens_of_split(config(tiny))


def test_testing_frames_have_no_labels(tiny: Path):
    (frame,) = read_frames(config(tiny, "test"))
    assert (frame.objects, len(frame.boxes), frame.scene) == ((), 0, "testing")


def test_frames_are_read_when_asked_for(tiny: Path):
    (tiny / "training/label_2/000000.txt").unlink()
    assert [frame.token for frame in read_frames(config(tiny, "trainval"), limit=1)] == ["000003"]
    frames = iterate_frames(config(tiny, "trainval"))
    assert next(frames).token == "000003"
    with pytest.raises(DataError, match=r"cannot read .*label_2/000000\.txt"):
        next(frames)


def test_frames_pickle(tiny: Path):
    (frame,) = read_frames(config(tiny))
    back = pickle.loads(pickle.dumps(frame))
    assert (back.objects, back.cameras[1].path) == (frame.objects, frame.cameras[1].path)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("calib/000003.txt", r"cannot read .*calib/000003\.txt .*unpack data_object_calib\.zip"),
        ("label_2/000003.txt", r"cannot read .*label_2/000003\.txt .*unpack or write"),
        (
            "image_3/000003.png",
            r"no file .*image_3/000003\.png; unpack data_object_image_3\.zip.*leave image_3 out",
        ),
        (
            "image_2/000003.png",
            r"no file .*image_2/000003\.png; unpack data_object_image_2\.zip.*leave image_2 out",
        ),
    ],
)
def test_a_missing_file_is_named(tiny: Path, file: str, message: str):
    (tiny / "training" / file).unlink()
    with pytest.raises(DataError, match=message):
        read_frames(config(tiny))


def test_a_missing_point_file_is_named_before_anything_runs(tiny: Path):
    (tiny / "training/velodyne/000003.bin").unlink()
    frames = read_frames(config(tiny))
    with pytest.raises(DataError, match=r"frame 000003: no file .*velodyne/000003\.bin"):
        check_point_files(frames)


def test_a_damaged_image_is_named(tiny: Path):
    (tiny / "training/image_2/000003.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cannot read .*image_2/000003\.png"):
        read_frames(config(tiny))


def test_frames_without_images_serve_teachers_and_scoring(tiny: Path):
    for name in ("image_2", "image_3"):
        (tiny / f"training/{name}/000003.png").unlink()
    with pytest.raises(DataError, match=r"image_2/000003\.png, so the size .*set image_size"):
        read_frames(config(tiny, cameras=()))
    (frame,) = read_frames(config(tiny, cameras=(), image_size=SIZE))
    assert (frame.cameras, frame.view.size) == ((), SIZE)
    assert len(load_points(frame)) == 1


@pytest.mark.parametrize("split", ["val", "000009", "../train"])
def test_an_unknown_split_is_named(tiny: Path, split: str):
    with pytest.raises(DataError, match=r"no frames of split .*\['test', 'train', 'trainval'\]"):
        read_frames(config(tiny, split))


def test_a_missing_tree_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"no KITTI folder at .*gone; set root"):
        read_frames(config(tmp_path / "gone"))


def real_frames() -> list[Any]:
    lidar = config(
        KITTI_LIDAR,
        "training",
        cameras=(),
        lidar="velodyne_reduced",
        # The published size of nearly all of these; the point files are cut to it.
        image_size=(375, 1242),
    )
    return [*read_frames(config(KITTI, "training", cameras=())), *read_frames(lidar)]


@real
def test_real_points_fill_their_real_boxes():
    """Of the points on and half a metre around cars in full view, above the ground, 97 % are in."""
    shares = []
    for frame in real_frames():
        xyz = load_points(frame)[:, :3].numpy()
        for thing in frame.objects:
            if thing.kind != "Car" or thing.occlusion or thing.truncation or thing.box[0] > 40:
                continue
            box = np.array(thing.box)
            local = SE3.from_yaw(box[6], box[:3].tolist()).inverse().apply(xyz)
            half = box[3:6] / 2
            inside = (np.abs(local) <= half + 0.1).all(axis=1)
            near = (np.abs(local) <= half + 0.5).all(axis=1) & (local[:, 2] > 0.3 - half[2])
            assert inside.sum() >= 50
            shares.append(inside[near].mean())
    assert len(shares) == 31
    assert min(shares) > 0.97


@real
def test_the_real_stereo_frame_has_both_images():
    (frame,) = read_frames(config(KITTI, "000107"))
    assert [image.size for image in load_images(frame)] == [(1242, 375)] * 2
    with pytest.raises(DataError, match=r"image_3/000001\.png"):
        read_frames(config(KITTI, "000001"))
