"""Thousands of seeded cases of damage and hostility: see ``fuzz``, ``fuzz_hostile``."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def fuzz(suite: str, seed: int, cases: int) -> dict[str, int]:
    """Verdicts and their counts; fails with the faults, if any."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.store.fuzz_process", suite, str(seed), str(cases)],
        cwd=REPOSITORY,
        # Arenas would use up the address space that a case may take.
        env=os.environ | {"MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["faults"] == []
    assert sum(found["verdicts"].values()) == cases
    verdicts: dict[str, int] = found["verdicts"]
    return verdicts


def test_no_damage_and_no_author_of_a_sealed_store_does_harm():
    verdicts = fuzz("sealed", 0, 1000)
    assert verdicts["refused"] > 500
    assert min(verdicts["same"], verdicts["other"]) > 20


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_nor_does_any_of_many_more(seed: int):
    fuzz("sealed", seed, 10_000)
