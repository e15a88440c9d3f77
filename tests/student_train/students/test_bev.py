"""UniDistill's detector as a student: LiDAR, cameras, through the real commands."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from frames.augment import BevAugment
from frames.dataset import read_frames
from frames.sensor_input import Modality, SensorInput
from runs.checkpoint import load_checkpoint
from runs.config import load_config
from runs.errors import ConfigError
from store.schema import Target
from student_train.config import StudentRun
from student_train.data import StudentDataset
from student_train.detector import StudentDetector
from student_train.students.bev import BEVStudentConfig
from student_train.students.kinds import build_student
from tests.command import succeed
from tests.tiny_unidistill import (
    IMAGE_AUGMENT,
    student_run,
    write_student_toml,
    write_teacher_toml,
)

KINDS: tuple[Modality, ...] = ("lidar", "camera")
ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def store(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a fusion teacher says to the methods that a centre head has."""
    folder = tmp_path_factory.mktemp("store")
    teacher = write_teacher_toml(folder, world, "fusion", steps=1)
    succeed("train-teacher", teacher, "--out", folder / "teacher", "--device", "cpu")
    succeed(
        *("dump-teacher", write_student_toml(folder, world, "camera")),
        *("--checkpoint", folder / "teacher" / "teacher.pt", "--methods", "xgd,imitation"),
        *("--out", folder / "store", "--device", "cpu"),
    )
    return folder / "store"


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_is_trained_from_a_cache_and_scored(
    store: Path, world: Path, tmp_path: Path, kind: Modality
):
    student = write_student_toml(tmp_path, world, kind, depth=1.0 if kind == "camera" else 0.0)
    succeed(
        *("train-student", student, "--method", "xgd+imitation", "--store", store),
        *("--out", tmp_path / "student", "--device", "cpu"),
    )
    logged = (tmp_path / "student" / "metrics.csv").read_text().splitlines()[0].split(",")
    own = {"heatmap", "box", "iou", "overlap"} | ({"depth"} if kind == "camera" else set())
    assert {f"loss/detection/{name}" for name in own} <= set(logged)
    assert {"loss/xgd/box", "loss/imitation/feature", "share/xgd/box"} <= set(logged)
    text = succeed(
        *("evaluate", tmp_path / "student" / "student.pt", "--split", "world_val"),
        *("--out", tmp_path / "eval", "--pictures", 1, "--device", "cpu"),
        *("--teacher", store.parent / "teacher" / "teacher.pt"),
    )
    assert "mATE" in text
    results = (tmp_path / "eval" / "results_nusc.json").read_text()
    assert f'"use_lidar": {str(kind == "lidar").lower()}' in results
    assert f'"use_camera": {str(kind == "camera").lower()}' in results


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_gives_and_what_methods_know_of_it(world: Path, tmp_path: Path, kind: Modality):
    run = student_run(tmp_path, world, kind)
    assert isinstance(run.student, BEVStudentConfig)
    assert run.kind == kind
    data = StudentDataset(read_frames(run.data), run, None, ())
    batch = data.collate([data[0, 0], data[1, 1]])
    assert isinstance(batch.seen, SensorInput)
    assert (batch.seen.points is None) == (kind == "camera")
    assert (batch.seen.cameras is None) == (kind == "lidar")
    student = build_student(run.student)
    output = student(batch.seen)
    for target in (Target.BEV_LOW, Target.BEV_HIGH):
        map_ = output.maps.features[target]
        assert map_.shape == (2, run.student.channels[target], *run.student.grid.shape)
    assert output.maps.center.box_code.shape == (2, 2, 11, 16, 16)
    assert student.auxiliary_terms(output, batch.seen, batch.boxes) == {}
    assert student.state_dict().keys() == build_student(run.student).state_dict().keys()


def test_a_lidar_student_sees_its_own_number_of_sweeps(world: Path, tmp_path: Path):
    path = write_student_toml(tmp_path, world, "lidar")
    path.write_text(path.read_text().replace("sweeps = 2", "sweeps = 1"))
    run = load_config(path, StudentRun)
    few = run.reader.read(read_frames(run.data)[1], BevAugment.identity(), None)
    more = run.reader.read(
        read_frames(run.data.model_copy(update={"sweeps": 2}))[1], BevAugment.identity(), None
    )
    assert isinstance(few, SensorInput)
    assert isinstance(more, SensorInput)
    assert few.points is not None
    assert more.points is not None
    assert few.points[0][:, 4].unique().tolist() == [0]
    assert len(more.points[0][:, 4].unique()) == 2


def test_images_need_an_augmentation_and_points_have_none(world: Path, tmp_path: Path):
    camera, lidar = (write_student_toml(tmp_path, world, kind) for kind in ("camera", "lidar"))
    camera.write_text(camera.read_text().replace(IMAGE_AUGMENT, ""))
    lidar.write_text(lidar.read_text() + IMAGE_AUGMENT)
    for path in (camera, lidar):
        with pytest.raises(ConfigError, match="image_augment: a multi-camera student needs it"):
            load_config(path, StudentRun)


def test_a_checkpoint_gives_the_same_boxes_again(world: Path, tmp_path: Path):
    path = write_student_toml(tmp_path, world, "lidar")
    succeed("train-student", path, "--out", tmp_path / "s", "--device", "cpu")
    checkpoint = load_checkpoint(tmp_path / "s" / "student.pt", "student")
    frames = read_frames(load_config(path, StudentRun).data)
    first, again = (
        StudentDetector(checkpoint, torch.device("cpu")).detect(frames) for _ in range(2)
    )
    assert len(first) == 3
    assert sum(len(found.scores) for found in first) > 0
    assert all(a.boxes.equal(b.boxes) for a, b in zip(first, again, strict=True))


# In a process of its own: this one may have loaded everything.
NO_SPARSE = """
import sys
from pathlib import Path
import student_train.detector, student_train.train
from runs.config import load_config
from student_train.config import StudentRun
from student_train.students.kinds import build_student
for name in sys.argv[1:]:
    build_student(load_config(Path("configs") / name, StudentRun).student)
print("spconv" in sys.modules)
"""


def test_stage_2_imports_no_spconv_for_pillars_and_cameras():
    names = ("gain_student", "kitti_student", "gain_uni_lidar_student", "gain_uni_camera_student")
    call = [sys.executable, "-W", "ignore", "-c", NO_SPARSE, *(f"{name}.toml" for name in names)]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
