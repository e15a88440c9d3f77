"""UniDistill's four paths on a real frame at the paper's size, through the normal commands.

One training step of each detector: scores mean nothing, but geometry, targets and losses do.
"""

import json
import math
from pathlib import Path

import pytest

from frames.dataset import read_frames
from runs.config import load_config
from runs.metrics import last_values
from store.reader import open_cache
from student_train.config import StudentRun
from tests.command import succeed
from tests.frames.real_data import real
from tests.test_real_nuscenes import CPU, real_toml

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@real
@pytest.mark.parametrize(
    ("teacher", "students"),
    [("lidar", ["camera"]), ("camera", ["lidar"]), ("fusion", ["camera", "lidar"])],
)
def test_a_step_at_the_papers_size(tmp_path: Path, teacher: str, students: list[str]):
    made, store = tmp_path / "teacher", tmp_path / "store"
    toml = real_toml(tmp_path, f"unidistill_{teacher}_teacher.toml")
    succeed("train-teacher", toml, "--kind", teacher, "--out", made, *CPU)
    assert math.isfinite(last_values(made)["loss"])

    for student in students:
        toml = real_toml(tmp_path, f"unidistill_{student}_student.toml")
        path = f'path = "{teacher}_to_{student}"'
        toml.write_text(f"{toml.read_text()}\n[methods.unidistill]\n{path}\n")
        if not store.exists():
            checkpoint = ("--checkpoint", made / "teacher.pt", "--methods", "unidistill")
            succeed("dump-teacher", toml, *checkpoint, "--out", store, *CPU)
        out = tmp_path / student
        arguments = ("--method", "unidistill", "--store", store, "--out", out)
        succeed("train-student", toml, *arguments, *CPU)
        logged = last_values(out)
        for term in ("feature", "relation", "response"):
            assert math.isfinite(logged[f"loss/unidistill/{term}"]), term
            assert logged[f"loss/unidistill/{term}"] > 0, term
        succeed("evaluate", out / "student.pt", "--out", out / "eval", "--pictures", 0, *CPU)
        (frame,) = read_frames(load_config(toml, StudentRun).data)
        assert list(json.loads((out / "eval" / "results_nusc.json").read_text())["results"]) == [
            frame.token
        ]
        assert len(open_cache(store)[frame.token].gt) == 65
