import subprocess
import sys
from pathlib import Path

import pytest

from store.schema import Coverage
from tests.store.building import tree

REPOSITORY = Path(__file__).parents[2]


def run(folder: Path, coverage: Coverage, points: list[int]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.store.dump_process", str(folder), str(coverage)]
        + [",".join(map(str, points))],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_kills(folder: Path, coverage: Coverage, stride: int) -> None:
    changes = int(run(folder, coverage, [0]))
    assert changes > 50
    points = list(range(1, changes + 1, stride))
    run(folder, coverage, points)
    uninterrupted = tree(folder / "0")
    assert "manifest.json" in uninterrupted
    assert not any(name.startswith(("parts", "plan")) for name in uninterrupted)
    for point in points:
        resumed = tree(folder / str(point))
        assert resumed.keys() == uninterrupted.keys(), point
        assert resumed == uninterrupted, point


@pytest.mark.parametrize(("coverage", "stride"), [(Coverage.FOREGROUND, 9), (Coverage.DENSE, 14)])
def test_a_killed_and_resumed_dump_is_the_uninterrupted_one(
    tmp_path: Path, coverage: Coverage, stride: int
):
    check_kills(tmp_path, coverage, stride)


@pytest.mark.slow
@pytest.mark.parametrize("coverage", list(Coverage))
def test_a_dump_may_be_killed_before_every_change_to_the_disk(tmp_path: Path, coverage: Coverage):
    check_kills(tmp_path, coverage, 1)
