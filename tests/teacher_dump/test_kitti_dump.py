"""KITTI frames go through a dump and a cache as any frames do."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from frames.augment import BevAugment
from frames.boxes import BoxBatch
from frames.detection_classes import KITTI_CLASSES
from frames.detections import Detections
from frames.frame import Frame
from frames.grid import BEVGrid
from frames.kitti.config import KittiConfig
from frames.kitti.reader import read_frames
from frames.loading import load_points
from store.fingerprint import TeacherIdentity
from store.plan import TeacherShapes
from store.reader import open_cache
from store.rows import rows_of_frames
from store.schema import Need, Places, Target
from store.writer import StoreWriter
from teacher_dump.dump import DumpOptions, dump, plan_dump
from teacher_dump.protocol import TeacherInfo, TeacherOutput
from tests.frames.kitti.real_kitti import KITTI, real
from tests.frames.kitti.tiny_kitti import write_tiny

GRID = BEVGrid(x_min=2.0, y_min=-30.4, cell_size=1.6, shape=(38, 36))
NEEDS = [Need(Target.BEV_LOW, Places.MAP, "float32"), Need(Target.BOXES, Places.BOXES)]


class CountingTeacher:
    """Its map counts the points of each cell; its boxes are the true ones."""

    def __init__(self) -> None:
        identity = TeacherIdentity(name="c", kind="lidar", checkpoint_sha256="ab" * 32, config={})
        shapes = TeacherShapes(bev_low=1, bev_high=1, classes=3, tasks=1, code_size=10, grid=GRID)
        self.info = TeacherInfo(identity=identity, shapes=shapes, classes=KITTI_CLASSES, sweeps=1)

    def __call__(
        self, frames: Sequence[Frame], boxes: BoxBatch, augments: Sequence[BevAugment]
    ) -> TeacherOutput:
        maps = [
            counts(augment.points(load_points(frame)))
            for frame, augment in zip(frames, augments, strict=True)
        ]
        return TeacherOutput(
            maps={Target.BEV_LOW: torch.stack(maps)},
            boxes=boxes.values,
            scores=boxes.valid.float(),
            labels=boxes.labels,
            answered=boxes.valid,
        )

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        raise NotImplementedError(f"{len(frames)} frames: a dump asks for no detections")


def counts(points: torch.Tensor) -> torch.Tensor:
    inside = points[GRID.contains(points[:, :2])]
    index = GRID.cell_index(inside[:, :2])
    flat = torch.zeros(GRID.num_cells).index_add(0, index, torch.ones(len(index)))
    return flat.reshape(1, *GRID.shape)


def check_round_trip(config: KittiConfig, store: Path) -> None:
    frames, teacher = read_frames(config), CountingTeacher()
    plan = plan_dump(teacher, frames, config, NEEDS, DumpOptions())
    dump(teacher, frames, StoreWriter.open(store, plan.fingerprint, rows_of_frames(frames)))
    cache = open_cache(store)
    identity = cache.fingerprint.dataset
    assert (identity.name, identity.version, identity.split) == ("kitti", "object", config.split)
    assert identity.ground_truth_filter == config.ground_truth_filter
    assert cache.fingerprint.classes == KITTI_CLASSES
    for frame in frames:
        row = cache[frame.token]
        assert torch.equal(row.gt.values, frame.boxes.values)
        assert torch.equal(row.gt.labels, frame.boxes.labels)
        low = torch.from_numpy(row.arrays["bev_low"])
        assert torch.equal(low, counts(load_points(frame)))
        assert low.sum() > 0


@pytest.fixture(autouse=True)
def one_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("teacher_dump.dump.code_revision", lambda: "tested")


def test_a_tiny_tree_is_dumped_and_read(tmp_path: Path):
    config = KittiConfig(root=write_tiny(tmp_path / "tree"), split="trainval")
    check_round_trip(config, tmp_path / "store")


@real
def test_real_frames_are_dumped_and_read(tmp_path: Path):
    config = KittiConfig(root=KITTI, split="training", cameras=())
    check_round_trip(config, tmp_path / "store")
