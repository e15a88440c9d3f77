"""Sizes that no network can take are refused with the config, before anything is read."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from runs.config import load_config
from runs.errors import ConfigError
from student_train.config import StudentRun
from teacher_dump.config import TeacherRun

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize(
    ("name", "model", "change", "message"),
    [
        ("demo_student", StudentRun, ("[64, 64]", "[65, 65]"), "(65, 65) is no multiple of the b"),
        ("demo_student", StudentRun, ("[64, 176]", "[65, 177]"), "out_size (65, 177) is no mult"),
        ("gain_sim_student", StudentRun, ("[64, 64]", "[65, 65]"), "the decoder's stride"),
        ("gain_sim_teacher", TeacherRun, ("[64, 176]", "[65, 176]"), "the image backbone's"),
        ("gain_uni_camera_teacher", TeacherRun, ("[64, 176]", "[65, 176]"), "coarsest str"),
        ("gain_uni_camera_teacher", TeacherRun, ("[64, 64]", "[66, 66]"), "the backbone's stri"),
    ],
)
def test_sizes_are_whole_multiples(
    tmp_path: Path, name: str, model: type[BaseModel], change: tuple[str, str], message: str
):
    text = (CONFIGS / f"{name}.toml").read_text()
    assert change[0] in text
    path = tmp_path / "run.toml"
    path.write_text(text.replace(*change))
    with pytest.raises(ConfigError) as caught:
        load_config(path, model)
    assert message in str(caught.value)
