"""The shipped label encoders fit the shipped teachers they say they fit."""

from pathlib import Path

import pytest

from nets.centerpoint import CenterPointConfig
from nets.label_encoder import LabelEncoder
from runs.config import load_config
from student_train.config import StudentRun
from teacher_dump.config import TeacherRun
from teacher_dump.label_config import LabelEncoderRun, require_fit

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(
    ("labels", "teacher", "student", "parameters"),
    [
        ("gain_label_encoder", "gain_teacher", "gain_student", None),
        ("labeldistill_label_encoder", "nuscenes_teacher", "nuscenes_student", 8_626_304),
    ],
)
def test_the_configs_fit_together(labels: str, teacher: str, student: str, parameters: int | None):
    run = load_config(CONFIGS / f"{labels}.toml", LabelEncoderRun)
    taught = load_config(CONFIGS / f"{teacher}.toml", TeacherRun)
    assert isinstance(taught.teacher, CenterPointConfig)
    require_fit(run.encoder, taught.teacher)
    other = load_config(CONFIGS / f"{student}.toml", StudentRun)
    assert run.encoder.grid == other.student.grid
    assert run.data.model_copy(update={"sweeps": taught.data.sweeps}) == taught.data
    if parameters is not None:
        assert sum(p.numel() for p in LabelEncoder(run.encoder).parameters()) == parameters
