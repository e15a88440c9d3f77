from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from frames.dataset import DatasetConfig, read_frames
from frames.kitti.config import KittiConfig
from frames.nuscenes import NuScenesConfig
from tests.frames import tiny_nuscenes
from tests.frames.kitti import tiny_kitti


class Run(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    data: DatasetConfig


def test_a_config_says_which_data_set_it_is():
    nuscenes = Run.model_validate({"data": {"root": "r", "version": "v1.0-mini", "split": "s"}})
    kitti = Run.model_validate({"data": {"dataset": "kitti", "root": "r", "split": "train"}})
    assert nuscenes.data == NuScenesConfig(root=Path("r"), version="v1.0-mini", split="s")
    assert kitti.data == KittiConfig(root=Path("r"), split="train")
    for run in (nuscenes, kitti):
        assert Run.model_validate(run.model_dump(mode="json")) == run
        assert Run(data=run.data) == run


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dataset": "waymo", "root": "r", "split": "s"}, "'nuscenes', 'kitti'"),
        ({"dataset": "kitti", "root": "r", "split": "s", "version": "v"}, "kitti.version"),
        ({"dataset": "kitti", "root": "r", "split": "s", "sweeps": 10}, "kitti.sweeps"),
        ({"root": "r", "split": "s"}, "nuscenes.version"),
    ],
)
def test_a_wrong_config_is_explained(values: dict[str, object], message: str):
    with pytest.raises(ValidationError, match=message):
        Run.model_validate({"data": values})


def test_frames_of_either_are_read(tmp_path: Path):
    nuscenes_root = tiny_nuscenes.write_tiny(tmp_path / "nuscenes")
    config = NuScenesConfig(root=nuscenes_root, version=tiny_nuscenes.VERSION, split="tiny_train")
    assert [frame.token for frame in read_frames(config, 1)] == ["a0"]
    kitti_root = tiny_kitti.write_tiny(tmp_path / "kitti")
    kitti = KittiConfig(root=kitti_root, split="trainval")
    assert [frame.token for frame in read_frames(kitti, 1)] == ["000003"]
