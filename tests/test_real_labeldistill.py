"""LabelDistill, and UniDistill from the same store, on a real frame at the paper's size.

One training step of each stage: scores mean nothing, but geometry, targets and losses do.
"""

import json
import math
from pathlib import Path

import pytest

from frames.dataset import read_frames
from runs.config import load_config
from runs.metrics import last_values
from student_train.config import StudentRun
from tests.command import succeed
from tests.frames.real_data import real
from tests.test_real_nuscenes import CPU, real_toml

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@real
def test_a_step_at_the_papers_size(tmp_path: Path):
    teacher, labels, store = (tmp_path / name for name in ("teacher", "labels", "store"))
    toml = real_toml(tmp_path, "nuscenes_teacher.toml")
    succeed("train-teacher", toml, "--out", teacher, *CPU)
    checkpoint = ("--checkpoint", teacher / "teacher.pt")

    toml = real_toml(tmp_path, "labeldistill_label_encoder.toml")
    succeed("train-label-encoder", toml, *checkpoint, "--out", labels, *CPU)
    logged = last_values(labels)
    assert all(math.isfinite(logged[name]) for name in ("loss", "loss/heatmap", "loss/box"))
    encoder = labels / "label_encoder.pt"
    made = json.loads(succeed("info", encoder, "--json"))
    # Beside the parameters: two norms' means, variances and one count each.
    assert made["parameters"] == 8_626_304 + 2 * (2 * 256 + 1)
    scored = ("evaluate", encoder, "--teacher", teacher / "teacher.pt", "--pictures", 0)
    assert "mATE" in succeed(*scored, "--out", tmp_path / "eval", *CPU)

    toml = real_toml(tmp_path, "labeldistill_student.toml")
    methods = ("--methods", "unidistill,labeldistill", "--label-encoder", encoder)
    succeed("dump-teacher", toml, *checkpoint, *methods, "--out", store, *CPU)
    (frame,) = read_frames(load_config(toml, StudentRun).data)
    for method, name, terms in (
        ("labeldistill", "labeldistill_student.toml", ("lidar", "label", "heatmap", "box")),
        ("unidistill", "nuscenes_student.toml", ("feature", "relation", "response")),
    ):
        out = tmp_path / method
        arguments = ("--method", method, "--store", store, "--out", out)
        toml = real_toml(tmp_path, name)
        succeed("train-student", toml, *arguments, *CPU)
        logged = last_values(out)
        for term in terms:
            assert math.isfinite(logged[f"loss/{method}/{term}"]), term
            assert logged[f"loss/{method}/{term}"] > 0, term
        succeed("evaluate", out / "student.pt", "--out", out / "eval", "--pictures", 0, *CPU)
        results = json.loads((out / "eval" / "results_nusc.json").read_text())["results"]
        assert list(results) == [frame.token]
