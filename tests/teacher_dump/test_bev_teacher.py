"""UniDistill's teachers of every kind, through the real commands."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from frames.augment import BevAugment
from frames.box_code import decode_boxes
from frames.boxes import BoxBatch
from frames.dataset import read_frames
from frames.errors import DataError
from frames.frame import Frame
from frames.sensor_input import Modality
from runs.checkpoint import load_checkpoint
from runs.config import load_config
from runs.errors import ConfigError
from store.choices import Coverage
from store.plan import masks_of, plan_arrays
from store.reader import open_cache
from store.schema import Need, Places, Target
from teacher_dump.bev_teacher import BEVTeacher
from teacher_dump.config import TeacherRun
from teacher_dump.teacher_rows import teacher_rows
from teacher_dump.teachers import own_teacher
from tests.command import command, succeed
from tests.tiny import write_student_toml as write_bevdepth_toml
from tests.tiny import write_teacher_toml as write_centerpoint_toml
from tests.tiny_unidistill import (
    IMAGE_AUGMENT,
    teacher_run,
    write_student_toml,
    write_teacher_toml,
)

KINDS: tuple[Modality, ...] = ("lidar", "camera", "fusion")
CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def trained(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher of each kind, trained for two steps."""
    folder = tmp_path_factory.mktemp("teachers")
    for kind in KINDS:
        config = write_teacher_toml(folder, world, kind, depth=0.0 if kind == "lidar" else 1.0)
        out = ("--out", folder / kind, "--device", "cpu")
        succeed("train-teacher", config, "--kind", kind, *out)
    return folder


def teacher_of(trained: Path, kind: Modality) -> BEVTeacher:
    teacher = own_teacher(load_checkpoint(trained / kind / "teacher.pt"), CPU)
    assert isinstance(teacher, BEVTeacher)
    return teacher


@pytest.fixture
def frames(world: Path, tmp_path: Path) -> list[Frame]:
    return read_frames(teacher_run(tmp_path, world, "fusion").data)


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_is_trained_dumped_and_scored(
    trained: Path, world: Path, tmp_path: Path, kind: Modality
):
    logged = (trained / kind / "metrics.csv").read_text().splitlines()[0].split(",")
    terms = {"heatmap", "box", "iou", "overlap"} | (set() if kind == "lidar" else {"depth"})
    assert {name for name in logged if name.startswith("loss/")} == {f"loss/{t}" for t in terms}
    checkpoint = trained / kind / "teacher.pt"
    succeed(
        *("dump-teacher", write_bevdepth_toml(tmp_path, world), "--checkpoint", checkpoint),
        *("--methods", "imitation", "--out", tmp_path / "store", "--device", "cpu"),
    )
    cache = open_cache(str(tmp_path / "store"))
    assert cache.fingerprint.teacher.kind == kind
    assert len(cache) == 3
    text = succeed(
        *("evaluate", checkpoint, "--split", "world_val", "--out", tmp_path / "eval"),
        *("--pictures", 1, "--device", "cpu"),
    )
    assert "mATE" in text
    results = (tmp_path / "eval" / "results_nusc.json").read_text()
    for sensor in ("lidar", "camera"):
        uses = kind in (sensor, "fusion")
        assert f'"use_{sensor}": {str(uses).lower()}' in results


def test_what_a_fusion_teacher_gives(trained: Path, frames: list[Frame]):
    teacher = teacher_of(trained, "fusion")
    boxes = BoxBatch.pad([frame.boxes for frame in frames])
    identity = [BevAugment.identity()] * len(frames)
    output = teacher(frames, boxes, identity)
    maps = (Target.BEV_LOW, Target.BEV_HIGH, Target.BEV_LIDAR, Target.BEV_CAMERA)
    assert set(output.maps) == {*maps, Target.HEATMAP_LOGIT, Target.BOX_CODE}
    for target, map_ in output.maps.items():
        assert map_.shape == (3, teacher.info.shapes.channels(target), 16, 16)
    code = output.maps[Target.BOX_CODE]
    assert code.shape[1] == 2 * 11
    # The teacher's box for the first object is what its code at the centre cell says.
    cell = teacher.info.shapes.grid.cell_index(boxes.values[0, 0, :2])
    task = int(teacher.network.head.class_task[boxes.labels[0, 0]])
    own = code[0].view(2, 11, -1)[task, :10, cell]
    expected = decode_boxes(own, cell, teacher.info.shapes.grid)
    torch.testing.assert_close(output.boxes[0, 0], expected)


@pytest.mark.parametrize("kind", ["lidar", "camera"])
def test_teachers_of_one_sensor_have_no_branches(
    trained: Path, frames: list[Frame], kind: Modality
):
    teacher = teacher_of(trained, kind)
    boxes = BoxBatch.pad([frame.boxes for frame in frames])
    output = teacher(frames, boxes, [BevAugment.identity()] * 3)
    assert not {Target.BEV_LIDAR, Target.BEV_CAMERA} & set(output.maps)
    assert teacher.info.shapes.further == {}


@pytest.mark.parametrize("kind", KINDS)
def test_an_augmented_frame_is_seen_augmented(trained: Path, frames: list[Frame], kind: Modality):
    """The occupied half of the low map changes sides with a flip; the map's content need not."""
    teacher, half = teacher_of(trained, kind), BevAugment.compose(flip_x=True)
    boxes = BoxBatch.pad([frames[0].boxes])
    branch = {"lidar": Target.BEV_LOW, "camera": Target.BEV_LOW, "fusion": Target.BEV_CAMERA}[kind]
    plain, flipped = (
        teacher(frames[:1], boxes, [augment]).maps[branch][0].abs().sum(0) > 0
        for augment in (BevAugment.identity(), half)
    )
    agree = (flipped == plain.flip(1)).float().mean()
    assert agree > 0.97
    assert plain.any()


def test_the_iou_is_stored_at_cells_and_left_out_at_boxes(trained: Path, frames: list[Frame]):
    teacher = teacher_of(trained, "lidar")
    needs = [Need(Target.BOX_CODE, Places.CELLS), Need(Target.BOX_CODE, Places.BOXES)]
    arrays = plan_arrays(needs, Coverage.FOREGROUND, teacher.info.shapes)
    (row,) = teacher_rows(teacher, frames[:1], arrays, masks_of(needs))
    cells = len(row.arrays["cells/index"])
    assert row.arrays["cells/box_code"].shape == (cells, 22)
    assert row.arrays["boxes/box_code"].shape == (len(frames[0].boxes), 10)


def test_a_kind_that_is_not_the_tomls_is_refused(world: Path, tmp_path: Path):
    camera = write_teacher_toml(tmp_path, world, "camera")
    code, text = command("train-teacher", camera, "--kind", "fusion", "--out", tmp_path / "x")
    assert (code, "--kind fusion" in text, "is of a camera teacher" in text) == (2, True, True)
    centerpoint = write_centerpoint_toml(tmp_path, world)
    code, text = command("train-teacher", centerpoint, "--kind", "camera", "--out", tmp_path / "x")
    assert (code, "is of a lidar teacher" in text) == (2, True)


def test_a_config_says_its_kind_and_is_held_to_it(world: Path, tmp_path: Path):
    for kind in KINDS:
        path = write_teacher_toml(tmp_path, world, kind)
        assert load_config(path, TeacherRun).kind == kind
        path.write_text(f'kind = "{kind}"\n' + path.read_text())
        assert load_config(path, TeacherRun).model_dump()["kind"] == kind
    path.write_text(path.read_text().replace('kind = "fusion"', 'kind = "lidar"'))
    with pytest.raises(ConfigError, match="the network sees fusion, not lidar"):
        load_config(path, TeacherRun)


def test_images_need_an_augmentation_and_points_have_none(world: Path, tmp_path: Path):
    camera = write_teacher_toml(tmp_path, world, "camera")
    camera.write_text(camera.read_text().replace(IMAGE_AUGMENT, ""))
    lidar = write_teacher_toml(tmp_path, world, "lidar")
    lidar.write_text(lidar.read_text() + IMAGE_AUGMENT)
    for path in (camera, lidar):
        with pytest.raises(ConfigError, match="image_augment: a network that sees images needs it"):
            load_config(path, TeacherRun)


def test_a_frame_without_its_cameras_is_refused(trained: Path, frames: list[Frame]):
    teacher = teacher_of(trained, "camera")
    half = replace(frames[0], cameras=frames[0].cameras[:3])
    with pytest.raises(DataError, match="lacks CAM_"):
        teacher.detect([half])


def test_the_student_reads_the_config_it_is_dumped_for(trained: Path, world: Path, tmp_path: Path):
    """A LiDAR student of the same kind takes the teacher's cache: grids and classes agree."""
    student = write_student_toml(tmp_path, world, "lidar")
    text = succeed(
        *("dump-teacher", student, "--checkpoint", trained / "camera" / "teacher.pt"),
        *("--out", tmp_path / "store", "--dry-run", "--device", "cpu"),
    )
    assert "3 rows" in text
