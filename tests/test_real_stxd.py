"""STXD on a real frame at the paper's size: one step of each stage, through the normal commands."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from frames.cell_masks import RandomMask, foreground_cells
from frames.dataset import read_frames
from frames.heatmap import CENTER_HEAD
from runs.config import load_config
from runs.metrics import last_values
from store.reader import open_cache
from student_train.config import StudentRun
from tests.command import succeed
from tests.frames.real_data import real
from tests.test_real_nuscenes import CPU, GRID, real_toml

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@real
def test_a_step_at_the_papers_size(tmp_path: Path):
    """The frame begins its scene: all its past is itself."""
    teacher, store, student = (tmp_path / name for name in ("teacher", "store", "student"))
    succeed("train-teacher", real_toml(tmp_path, "nuscenes_teacher.toml"), "--out", teacher, *CPU)
    checkpoint = ("--checkpoint", teacher / "teacher.pt")
    toml = real_toml(tmp_path, "stxd_student.toml")
    succeed("dump-teacher", toml, *checkpoint, "--methods", "stxd", "--out", store, *CPU)
    (frame,) = read_frames(load_config(toml, StudentRun).data)
    row = open_cache(store)[frame.token]
    masks = (CENTER_HEAD, RandomMask(count=512))
    cells = foreground_cells(frame.boxes, GRID, masks, frame.token)
    assert row.arrays["cells/index"].tolist() == cells.tolist()
    assert row.arrays["cells/bev_high"].shape == (len(cells), 512)
    assert len(cells) > 512
    score, owner, iou = (row.arrays[f"detections/{name}"] for name in ("score", "object", "iou"))
    assert len(score) <= 300
    assert (np.diff(score) <= 0).all()
    assert owner.max(initial=-1) < len(frame.boxes)
    assert ((iou > 0) == (owner >= 0)).all()
    checks = json.loads(succeed("recheck", toml, store, *checkpoint, "--json", *CPU))
    assert all(check["passed"] for check in checks)

    succeed("train-student", toml, "--method", "stxd", "--store", store, "--out", student, *CPU)
    logged = last_values(student)
    for term in ("cd", "td", "rd"):
        assert math.isfinite(logged[f"loss/stxd/{term}"]), term
    for term in ("cd", "td"):
        assert logged[f"loss/stxd/{term}"] > 0, term
        assert logged[f"share/stxd/{term}"] > 0, term
    # Some are turned off the grid.
    assert 0.9 * len(cells) < logged["stxd/rows"] <= len(cells)
    succeed("evaluate", student / "student.pt", "--out", student / "eval", "--pictures", 0, *CPU)
    results = json.loads((student / "eval" / "results_nusc.json").read_text())["results"]
    assert list(results) == [frame.token]
