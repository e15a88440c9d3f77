"""SimDistill on a real frame at the paper's size, through the normal commands.

One training step of each network: scores mean nothing, but geometry, targets and losses do.
"""

import json
import math
from pathlib import Path

import pytest

from frames.dataset import read_frames
from runs.config import load_config
from runs.metrics import last_values
from store.reader import open_cache
from store.schema import Places
from student_train.config import StudentRun
from tests.command import succeed
from tests.frames.real_data import real
from tests.test_real_nuscenes import CPU, real_toml

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@real
def test_a_step_at_the_papers_size(tmp_path: Path):
    made, store, out = (tmp_path / name for name in ("teacher", "store", "student"))
    toml = real_toml(tmp_path, "simdistill_teacher.toml")
    succeed("train-teacher", toml, "--kind", "fusion", "--out", made, *CPU)
    assert math.isfinite(last_values(made)["loss"])

    toml = real_toml(tmp_path, "simdistill_student.toml")
    checkpoint = ("--checkpoint", made / "teacher.pt", "--methods", "simdistill")
    succeed("dump-teacher", toml, *checkpoint, "--out", store, *CPU)
    cache = open_cache(store)
    bytes_of = {spec.name: spec.value_bytes for spec in cache.fingerprint.arrays}
    # Those of the release's sizes, in float16: IMD, MMD-F, MMD-P's classes.
    assert [bytes_of[name] for name in ("bev_camera", "bev_low", "heatmap_logit")] == [
        *(5_184_000, 16_588_800, 648_000)
    ]
    (cells,) = (s for s in cache.fingerprint.arrays if s.name == "cells/bev_lidar")
    assert (cells.places, cells.shape) == (Places.CELLS, (256,))

    succeed("train-student", toml, "--method", "simdistill", "--store", store, "--out", out, *CPU)
    logged = last_values(out)
    for term in ("imd", "cmd", "mmd_f", "mmd_p"):
        assert math.isfinite(logged[f"loss/simdistill/{term}"]), term
        assert logged[f"loss/simdistill/{term}"] > 0, term
    succeed("evaluate", out / "student.pt", "--out", out / "eval", "--pictures", 0, *CPU)
    (frame,) = read_frames(load_config(toml, StudentRun).data)
    results = json.loads((out / "eval" / "results_nusc.json").read_text())
    assert list(results["results"]) == [frame.token]
    assert results["meta"]["use_lidar"] is False
    assert len(cache[frame.token].gt) == 65
