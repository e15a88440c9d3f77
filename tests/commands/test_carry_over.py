"""The error of carrying over: nothing where a teacher turns with its points, much where not."""

import json
import math
from pathlib import Path

import pytest
import torch

from commands.carry_over import measure_carry_over
from examples.geometric_teacher import factory
from frames.augment import BevAugment
from frames.dataset import read_frames
from runs.config import load_config
from store.reader import Cache, open_cache
from student_train.config import StudentRun
from tests.command import command, succeed
from tests.teacher_dump.untrained import write_untrained_teacher
from tests.tiny import write_student_toml

EXAMPLE = "examples.geometric_teacher:factory"
CPU = ("--device", "cpu")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def toml(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student on the grid of the example teacher, and that teacher's store beside it."""
    path = write_student_toml(tmp_path_factory.mktemp("carry"), world)
    text = path.read_text()
    own = text.replace("cell_size = 4.8\nshape = [16, 16]", "cell_size = 1.2\nshape = [64, 64]")
    assert own != text
    path.write_text(own)
    options = ("--teacher", EXAMPLE, "--out", path.parent / "store")
    succeed("dump-teacher", path, *options, "--methods", "xgd,imitation", *CPU)
    return path


def errors(toml: Path, cache: Cache, augment: BevAugment) -> dict[str, tuple[float, float]]:
    """Relative error and cosine of each target."""
    frames = read_frames(load_config(toml, StudentRun).data.model_copy(update={"sweeps": 1}))
    shown = [(frame, augment) for frame in frames[:2]]
    found = measure_carry_over(factory(None, torch.device("cpu")), cache, shown)
    assert {error.frames for error in found} == {2}
    return {error.target: (error.relative_l2, error.cosine) for error in found}


@pytest.mark.parametrize("flip_x", [False, True])
def test_mirroring_points_mirrors_what_the_example_says(toml: Path, flip_x: bool):
    """Its maps are counts and means, its boxes means: exactly what the carried targets say.

    Not so for y, though: the world's first beam lies at y = 0, an edge between cells.
    """
    found = errors(toml, open_cache(toml.parent / "store"), BevAugment.compose(flip_x=flip_x))
    # Its heading is the principal axis: which of the two ways, it cannot say.
    del found["boxes/heading"]
    assert found.keys() == {
        *("bev_high", "heatmap_logit", "boxes/centre"),
        *("boxes/size", "boxes/velocity", "boxes/score"),
    }
    for name, (relative, cosine) in found.items():
        if name != "boxes/velocity":
            assert relative < 2e-3, name
            assert cosine > 0.9999, name


def test_what_does_not_turn_with_the_points_shows(toml: Path):
    """Counts in cells of a fixed raster change when the points turn and move apart."""
    found = errors(
        toml, open_cache(toml.parent / "store"), BevAugment.compose(yaw=math.pi / 4, scale=1.05)
    )
    assert found["bev_high"][0] > 0.1
    assert 0.5 < found["bev_high"][1] < 0.999


def test_the_command_prints_a_line_a_target(toml: Path):
    common = ("recheck", toml, toml.parent / "store", "--teacher", EXAMPLE, "--carry-over", 2)
    text = succeed(*common, "--rows", 2, *CPU)
    assert "boxes/heading │ 4 │" in text
    found = json.loads(succeed(*common, "--json", *CPU))
    assert {entry["frames"] for entry in found} == {6}
    assert {"target", "frames", "relative_l2", "cosine", "mean_abs"} == found[0].keys()


def test_where_nothing_is_carried_is_told(toml: Path, world: Path, tmp_path: Path):
    text = toml.read_text()
    off = tmp_path / "off.toml"
    off.write_text(text[: text.index("[bev_augment]")] + text[text.index("[student]") :])
    common = ("--teacher", EXAMPLE, "--carry-over", 2, *CPU)
    code, said = command("recheck", off, toml.parent / "store", *common)
    assert (code, "error: nothing is carried over" in said) == (1, True)
    drawn = tmp_path / "drawn"
    checkpoint = write_untrained_teacher(tmp_path, world)
    tiny = write_student_toml(tmp_path, world)
    options = ("--checkpoint", checkpoint, "--views", 2, "--out", drawn, *CPU)
    succeed("dump-teacher", tiny, *options, "--methods", "xgd")
    code, said = command(
        "recheck", tiny, drawn, "--checkpoint", checkpoint, "--carry-over", 2, *CPU
    )
    assert (code, "has 2 views a frame" in said) == (1, True)
