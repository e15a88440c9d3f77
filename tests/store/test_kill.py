import subprocess
import sys
from pathlib import Path

import pytest

from store.choices import Coverage
from tests.store.building import tree

REPOSITORY = Path(__file__).parents[2]


def check_kills(folder: Path, job: str, stride: int, least: int) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.store.dump_process"),
            *(str(folder), job, str(stride)),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    uninterrupted = tree(folder / "0")
    assert "manifest.json" in uninterrupted
    assert not any(name.startswith(("parts", "plan")) for name in uninterrupted)
    points = sorted(path.name for path in folder.iterdir())
    assert len(points) >= least
    for point in points:
        resumed = tree(folder / point)
        assert resumed.keys() == uninterrupted.keys(), point
        assert resumed == uninterrupted, point


@pytest.mark.parametrize(("coverage", "stride"), [(Coverage.FOREGROUND, 37), (Coverage.DENSE, 61)])
def test_a_killed_and_resumed_dump_is_the_uninterrupted_one(
    tmp_path: Path, coverage: Coverage, stride: int
):
    check_kills(tmp_path, coverage, stride, least=4)


@pytest.mark.slow
@pytest.mark.parametrize("coverage", list(Coverage))
def test_a_dump_may_be_killed_before_every_change_to_the_disk(tmp_path: Path, coverage: Coverage):
    check_kills(tmp_path, coverage, 1, least=100)
