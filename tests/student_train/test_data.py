"""Images, geometry, boxes and targets of an example belong together."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from frames.augment import BevAugment
from frames.boxes import Boxes3D
from frames.camera_input import CameraInput, check_cameras
from frames.class_balance import class_balanced
from frames.errors import DataError
from frames.frame import Camera, Frame
from frames.geometry import project
from runs.sampler import StepSampler
from store.reader import Cache, open_cache
from store.schema import Need, Places, Target
from student_train.config import StudentRun
from student_train.data import (
    StudentBatch,
    StudentDataset,
    StudentExample,
)
from tests.command import succeed
from tests.student_train.seen import images, seen
from tests.teacher_dump.untrained import write_untrained_teacher
from tests.tiny import student_run, write_student_toml
from tests.web_server import served

NEEDS = [Need(Target.BOXES, Places.BOXES), Need(Target.BEV_HIGH, Places.CELLS)]


def pixel_of(xyz: Tensor, camera: Camera) -> tuple[np.ndarray, float]:
    """Where an ego point (3,) is seen in the image as read, and its depth."""
    cam = camera.ego_from_cam.inverse().apply(xyz.double().numpy())
    pixel, depth = project(torch.from_numpy(cam), torch.from_numpy(camera.image_from_cam))
    return pixel.numpy(), float(depth)


def with_a_spot(frame: Frame, xyz: Tensor, folder: Path) -> tuple[Frame, list[int]]:
    """The frame with black images, a soft spot where the point is seen well; and those cameras."""
    cameras, seeing = [], []
    for k, camera in enumerate(frame.cameras):
        (u, v), depth = pixel_of(xyz, camera)
        height, width = camera.size
        cols, rows = np.arange(width), np.arange(height)[:, None]
        spot = (
            np.exp(-((cols - u) ** 2 + (rows - v) ** 2) / 8) if depth > 0 else 0 * rows + 0 * cols
        )
        if depth > 0 and 25 < u < width - 25 and 22 < v < height - 8:
            seeing.append(k)
        path = folder / f"{camera.name}.png"
        Image.fromarray((255 * spot).astype(np.uint8)).save(path)
        cameras.append(replace(camera, path=path))
    return replace(frame, cameras=tuple(cameras)), seeing


def bright_spot(image: Tensor) -> Tensor:
    """Centroid (u, v) of an image (3, h, w)."""
    weight = image[0].double()
    v, u = torch.meshgrid(*(torch.arange(size).double() for size in weight.shape), indexing="ij")
    return torch.stack([(u * weight).sum(), (v * weight).sum()]) / weight.sum()


def project_augmented(xyz: Tensor, cameras: CameraInput, view: int) -> Tensor:
    """The pixel that the geometry gives for a point (3,) of the augmented ego frame."""
    geometry = cameras.geometry
    cam_from_bev = torch.linalg.inv(geometry.bev_from_cam()[0, view].double())
    cam = cam_from_bev[:3, :3] @ xyz.double() + cam_from_bev[:3, 3]
    pixel, _ = project(cam, geometry.pixels_from_cam()[0, view].double())
    return pixel


def test_a_boxs_centre_is_where_the_augmented_image_shows_it(
    run: StudentRun, frames: list[Frame], tmp_path: Path
):
    """A spot painted on the image moves with it; the augmented box must project onto it."""
    checked = 0
    for index in range(len(frames[0].boxes)):
        folder = tmp_path / str(index)
        folder.mkdir()
        xyz = frames[0].boxes.values[index, :3]
        marked, seeing = with_a_spot(frames[0], xyz, folder)
        for position in range(2 if seeing else 0):
            example = StudentDataset([marked], run, None, ())[0, 10 * index + position]
            for view in seeing:
                found = bright_spot(seen(example).images[0, view])
                expected = project_augmented(example.boxes.values[index, :3], seen(example), view)
                height, width = seen(example).images.shape[3:]
                margin = torch.minimum(expected, torch.tensor([width - 1, height - 1]) - expected)
                if (margin < 5).any():
                    continue
                assert torch.allclose(found, expected, atol=0.5), (index, position, view)
                checked += 1
    assert checked >= 8


def same(a: Any, b: Any) -> bool:
    """Whether two examples or batches hold the same tensors."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if a is None or isinstance(a, bool):
        return a is b
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return all(same(getattr(a, field.name), getattr(b, field.name)) for field in fields(a))


def test_a_position_decides_the_example(run: StudentRun, frames: list[Frame], cache: Cache):
    data = StudentDataset(frames, run, cache, NEEDS)
    assert same(data[1, 5], data[1, 5])
    assert not same(data[1, 5], data[1, 6])


def test_a_worker_process_gives_the_same_batches(
    run: StudentRun, frames: list[Frame], cache: Cache
):
    def batches(workers: int) -> list[StudentBatch]:
        loader = DataLoader(
            StudentDataset(frames, run, cache, NEEDS),
            2,
            sampler=StepSampler(len(frames), 4, seed=0),
            num_workers=workers,
            collate_fn=StudentDataset.collate,
            multiprocessing_context="forkserver" if workers else None,
        )
        return list(loader)

    here, there = batches(0), batches(1)
    assert len(here) == 2
    assert all(same(a, b) for a, b in zip(here, there, strict=True))


def test_boxes_targets_and_geometry_share_one_augmentation(
    run: StudentRun, frames: list[Frame], cache: Cache
):
    data = StudentDataset(frames, run, cache, NEEDS)
    matrices = set()
    for position in range(4):
        example = data[0, position]
        matrix = seen(example).geometry.augmented_from_ego[0]
        augment = BevAugment(torch.cat([matrix[:2, :2], matrix[:2, 3:]], dim=1))
        assert example.boxes.values.equal(augment.boxes(frames[0].boxes.values))
        row = cache[frames[0].token]
        centre = torch.from_numpy(row.arrays["boxes/centre"])
        boxes = example.targets.boxes
        assert boxes is not None
        assert torch.allclose(boxes[:, :2], augment.xy(centre[:, :2]), atol=1e-5)
        assert example.targets.cells is not None
        cells = torch.from_numpy(row.arrays["cells/index"]).long()
        expected = augment.xy(cache.fingerprint.grid.cell_centres(cells))
        assert torch.allclose(example.targets.cells, expected, atol=1e-5)
        matrices.add(tuple(matrix.flatten().tolist()))
    assert len(matrices) == 4


def test_testing_augments_nothing(run: StudentRun, frames: list[Frame]):
    identity = BevAugment.identity()
    first, second = (images(run.reader.read(frames[0], identity, None)) for _ in range(2))
    assert same(first, second)
    assert first.geometry.augmented_from_ego[0].equal(torch.eye(4))
    # 48 x 132 to 32 x 88: the whole image, two thirds as large; pixel centres stay centres.
    expected = torch.tensor([[2 / 3, 0, -1 / 6], [0, 2 / 3, -1 / 6], [0, 0, 1]])
    assert torch.allclose(first.geometry.augmented_from_image[0], expected.expand(6, 3, 3))


def test_depth_is_loaded_only_where_it_is_asked_for(
    run: StudentRun, frames: list[Frame], world: Path, tmp_path: Path
):
    assert seen(StudentDataset(frames, run, None, ())[0, 0]).depth is None
    supervised = student_run(tmp_path, world, depth=1.0)
    depth = seen(StudentDataset(frames, supervised, None, ())[0, 0]).depth
    assert depth is not None
    assert depth.shape == (1, 6, 4, 11)
    assert (depth > 0).float().mean() > 0.2


@pytest.mark.parametrize("change", ["moved", "fewer", "relabelled"])
def test_other_ground_truth_than_the_caches_is_refused(
    run: StudentRun, frames: list[Frame], cache: Cache, change: str
):
    boxes = frames[0].boxes
    other = {
        "moved": Boxes3D(boxes.values + 0.01, boxes.labels),
        "fewer": Boxes3D(boxes.values[1:], boxes.labels[1:]),
        "relabelled": Boxes3D(boxes.values, 9 - boxes.labels),
    }[change]
    data = StudentDataset([replace(frames[0], boxes=other)], run, cache, NEEDS)
    message = f"frame {frames[0].token}: the cache was dumped with {len(boxes)} .* dump it again"
    with pytest.raises(DataError, match=message):
        data[0, 0]


def test_a_missing_camera_is_named(run: StudentRun, frames: list[Frame]):
    blind = replace(frames[1], cameras=frames[1].cameras[1:])
    message = r"lacks CAM_FRONT_LEFT \(1 of 2 frames lack a camera\)"
    with pytest.raises(DataError, match=message):
        check_cameras([frames[0], blind], run.data.cameras)


def test_frames_are_drawn_by_their_classes(run: StudentRun, frames: list[Frame], cache: Cache):
    fit = run.fit.model_copy(update={"class_balanced": True})
    balanced = run.model_copy(update={"fit": fit})
    data = StudentDataset(frames, balanced, cache, NEEDS)
    drawn = class_balanced(frames, run.fit.seed)
    assert [frame.token for frame in data.frames] == [frame.token for frame in drawn]
    assert len(data) == len(drawn) > len(frames)
    assert same(data[0, 5], StudentDataset(drawn, run, cache, NEEDS)[0, 5])


def test_a_batch_holds_its_frames_in_order(run: StudentRun, frames: list[Frame], cache: Cache):
    data = StudentDataset(frames, run, cache, NEEDS)
    examples: list[StudentExample] = [data[k, k] for k in range(3)]
    batch = StudentDataset.collate(examples)
    assert seen(batch).depth is None
    for b, example in enumerate(examples):
        assert seen(batch).images[b].equal(seen(example).images[0])
        matrix = seen(batch).geometry.augmented_from_ego[b]
        assert matrix.equal(seen(example).geometry.augmented_from_ego[0])
        assert batch.boxes.values[b, : len(example.boxes)].equal(example.boxes.values)
    assert batch.targets.boxes is not None
    assert batch.targets.boxes.shape[1] == batch.boxes.values.shape[1]


def test_several_examples_are_the_single_ones(run: StudentRun, frames: list[Frame], cache: Cache):
    data = StudentDataset(frames, run, cache, NEEDS)
    examples = [(1, 5), (0, 6), (1, 7)]
    assert all(
        same(a, data[example])
        for a, example in zip(data.__getitems__(examples), examples, strict=True)
    )


def test_a_dense_cache_behind_a_url_is_read_shard_by_shard(
    run: StudentRun,
    frames: list[Frame],
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("BEVCACHE_MIRROR", str(tmp_path / "mirror"))
    needs = [Need(Target.BEV_HIGH, Places.CELLS)]
    for coverage in ("foreground", "dense"):
        succeed(
            *("dump-teacher", write_student_toml(tmp_path, world), "--out", tmp_path / coverage),
            *("--checkpoint", write_untrained_teacher(tmp_path, world), "--device", "cpu"),
            *("--methods", "imitation", "--coverage", coverage),
        )
    with served(tmp_path) as url:
        caches: list[Path | str] = [tmp_path / "dense", f"{url}/foreground", f"{url}/dense"]
        local, sparse, dense = (
            StudentDataset(frames, run, open_cache(place), needs) for place in caches
        )
        assert (local.blocks, sparse.blocks) == (None, None)
        assert dense.blocks is not None
        assert dense.blocks.of == [0] * len(frames)
        dense.blocks.fetch([1])
        assert list(tmp_path.glob("mirror/*/*/bev_high/c/0/0/0/0"))
        assert same(dense[1, 5], local[1, 5])
