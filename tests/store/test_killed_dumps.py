"""SIGKILL at random moments, under one writer and under four: see ``killed_dumps``."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def check_killed(folder: Path, writers: int, kills: int, seed: int) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.store.killed_dumps"),
            *(str(folder), str(writers), str(kills), str(seed)),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) >= kills


@pytest.mark.parametrize("writers", [1, 4])
def test_whoever_is_killed_the_store_becomes_the_same(tmp_path: Path, writers: int):
    check_killed(tmp_path, writers, kills=10, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("writers", [1, 4])
def test_nor_do_hundreds_of_kills_change_it(tmp_path: Path, writers: int):
    check_killed(tmp_path, writers, kills=300, seed=1)
