from pathlib import Path

import pytest

from runs.metrics import last_values, mean_values

# Rows as Lightning writes them: what was not logged at a step is empty.
CSV = """step,loss,share/xgd/box,xgd/kept/size
0,8,,
1,4,0.5,
2,2,0.1,0.75
3,6,,0.25
"""


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "metrics.csv").write_text(CSV)
    return tmp_path


def test_the_last_value_logged_is_kept(run_dir: Path):
    assert last_values(run_dir) == {
        "step": 3,
        "loss": 6,
        "share/xgd/box": 0.1,
        "xgd/kept/size": 0.25,
    }
    assert last_values(run_dir, "xgd/") == {"xgd/kept/size": 0.25}


def test_means_are_over_each_series_own_second_half(run_dir: Path):
    assert mean_values(run_dir, ("loss", "share/", "xgd/")) == {
        "mean/loss": 4,
        "mean/share/xgd/box": 0.1,
        "mean/xgd/kept/size": 0.25,
    }
    assert mean_values(run_dir, ("nothing",)) == {}
