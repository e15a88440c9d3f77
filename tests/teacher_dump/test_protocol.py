"""Bring your own teacher: what is refused, and the example going all the way to a student."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from examples.geometric_teacher import GRID, REACH, GeometricTeacher, factory, measure
from frames.augment import BevAugment
from frames.boxes import BoxBatch
from frames.dataset import read_frames
from frames.frame import Frame
from frames.heatmap import CENTER_HEAD
from runs.config import load_config
from store.reader import open_cache
from store.schema import ArraySpec, Places, Target
from student_train.config import StudentRun
from teacher_dump.errors import TeacherError
from teacher_dump.protocol import Teacher, TeacherOutput, load_teacher
from teacher_dump.teacher_rows import teacher_rows
from tests.command import command, succeed
from tests.tiny import write_student_toml

CPU = torch.device("cpu")
EXAMPLE = "examples.geometric_teacher:factory"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("examples.geometric_teacher", r"expected package\.module:factory"),
        (":factory", r"expected package\.module:factory"),
        ("examples.geometric_teacher:", r"expected package\.module:factory"),
        ("no.such.module:factory", "No module named 'no'; is it on PYTHONPATH"),
        ("examples.geometric_teacher:fabrik", "geometric_teacher has no 'fabrik'"),
        ("examples.geometric_teacher:REACH", "is a float, not a function"),
        ("builtins:print", "returned a NoneType, which lacks info, detect"),
    ],
)
def test_what_is_no_teacher_is_refused(name: str, message: str):
    with pytest.raises(TeacherError, match=message):
        load_teacher(name, None, CPU)


def test_the_command_line_says_it_in_one_line(world: Path, tmp_path: Path):
    toml = write_student_toml(tmp_path, world)
    code, text = command("dump-teacher", toml, "--teacher", "nobody:factory", "--out", tmp_path)
    assert (code, "error: --teacher 'nobody:factory'" in text) == (1, True)
    code, text = command("dump-teacher", toml, "--out", tmp_path / "store")
    assert (code, "this teacher needs --checkpoint" in text) == (1, True)


def student_on_the_examples_grid(folder: Path, root: Path) -> Path:
    path = write_student_toml(folder, root)
    text = path.read_text()
    tiny, own = "cell_size = 4.8\nshape = [16, 16]", "cell_size = 1.2\nshape = [64, 64]"
    assert tiny in text
    path.write_text(text.replace(tiny, own))
    return path


def test_the_example_teaches_a_student(world: Path, tmp_path: Path):
    toml = student_on_the_examples_grid(tmp_path, world)
    store = tmp_path / "store"
    said = ("--teacher", EXAMPLE, "--methods", "xgd,imitation")
    succeed("dump-teacher", toml, *said, "--out", store, "--device", "cpu")
    cache = open_cache(store)
    assert cache.fingerprint.teacher.name == "geometric"
    answers = 0
    for frame in read_frames(load_config(toml, StudentRun).data):
        row = cache[frame.token]
        answered = torch.from_numpy(row.arrays["boxes/label"]) >= 0
        centre = torch.from_numpy(row.arrays["boxes/centre"])[answered, :2]
        truth = frame.boxes.values[answered, :2]
        half_cell = GRID.cell_size / 2
        assert ((centre - truth).norm(dim=1) < REACH + half_cell * math.sqrt(2)).all()
        answers += len(centre)
    assert answers > 10
    arguments = ("--method", "xgd+imitation", "--store", store, "--out", tmp_path / "student")
    succeed("train-student", toml, *arguments, "--device", "cpu")


def test_the_example_fulfils_the_protocol(frames: list[Frame]):
    teacher: Teacher = factory(None, CPU)
    (found, *_) = teacher.detect(frames)
    assert (found.scores.diff() <= 0).all()
    assert found.scores.max() <= 1


def test_the_example_measures_a_bar():
    """4.8 x 1.2 x 0.6 m, turned by 0.5: a uniform grid of points has very nearly its variances."""
    along, across, up = (torch.linspace(-0.5, 0.5, n).double() for n in (241, 61, 7))
    bar = torch.cartesian_prod(along * 4.8, across * 1.2, up * 0.6)
    cos, sin = math.cos(0.5), math.sin(0.5)
    x, y = bar[:, 0] * cos - bar[:, 1] * sin, bar[:, 0] * sin + bar[:, 1] * cos
    cloud = torch.stack([x + 7, y - 3, bar[:, 2] + 1, x * 0, x * 0], dim=1)
    # Out of reach, so without influence.
    cloud = torch.cat([cloud, cloud[:100] + 20])
    ((box,), (presence,)) = measure(cloud, torch.tensor([[7.1, -3.0]]).double())
    assert box[:3].tolist() == pytest.approx([7, -3, 1], abs=0.02)
    assert box[3:6].tolist() == pytest.approx([4.8, 1.2, 0.7], rel=0.03)
    assert float(box[6]) == pytest.approx(0.5, abs=0.01)
    assert box[7:].tolist() == [0, 0]
    assert float(presence) == 1


class Altered(GeometricTeacher):
    """Breaks the protocol in its maps."""

    def __init__(self, maps: dict[Target, Tensor]) -> None:
        super().__init__(CPU)
        self.maps = maps

    def __call__(
        self, frames: Sequence[Frame], boxes: BoxBatch, augments: Sequence[BevAugment]
    ) -> TeacherOutput:
        return replace(super().__call__(frames, boxes, augments), maps=self.maps)


@pytest.mark.parametrize("places", [Places.MAP, Places.CELLS])
def test_a_teachers_maps_must_be_there_and_on_its_grid(frames: list[Frame], places: Places):
    shape = (3, 64, 64) if places is Places.MAP else (3,)
    spec = ArraySpec(name="bev_high", places=places, shape=shape, dtype="float32")
    low = torch.zeros(1, 3, 64, 64)
    with pytest.raises(TeacherError, match=r"no map bev_high, .*; it gives .*bev_low"):
        list(teacher_rows(Altered({Target.BEV_LOW: low}), frames[:1], [spec], [CENTER_HEAD]))
    finer = {Target.BEV_HIGH: torch.zeros(1, 3, 128, 64)}
    with pytest.raises(TeacherError, match=r"is 128 x 64 cells, its info\.shapes.grid 64 x 64"):
        list(teacher_rows(Altered(finer), frames[:1], [spec], [CENTER_HEAD]))
