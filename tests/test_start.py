"""Commands start fast: each loads what it needs, and the light ones nothing heavy."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.frames.kitti.street_kitti import write_street
from tests.store.building import build

ROOT = Path(__file__).parent.parent
HEAVY = {
    *("lightning", "torchmetrics", "torchvision", "timm", "spconv"),
    *("dask", "distributed", "nuscenes", "sklearn", "matplotlib"),
}
# Called in a process of its own: this one has loaded everything.
CALL = """
import contextlib, io, json, sys, cli
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            cli.main()
        except SystemExit as stop:
            assert not stop.code, (arguments, printed.getvalue())
print(*{name.partition(".")[0] for name in sys.modules})
"""


def loaded_by(*commands: list[str]) -> set[str]:
    """Packages that are there after these commands."""
    call = [sys.executable, "-c", CALL, json.dumps(commands)]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_help_loads_neither_torch_nor_the_store():
    packages = loaded_by(["--help"], ["dump-teacher", "--help"], ["catalogue", "--help"])
    assert "typer" in packages
    assert not packages & (HEAVY | {"torch", "numpy", "zarr", "obstore"})


def test_reading_a_store_loads_nothing_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = str(build(tmp_path / "store", 2))
    monkeypatch.setenv("BEVCACHE_CATALOGUE", str(tmp_path / "catalogue.json"))
    packages = loaded_by(
        ["info", store],
        ["verify", store],
        ["copy", store, str(tmp_path / "copy")],
        ["catalogue", "add", "toy", store, "--description", "a toy", "--licence", "MIT"],
        ["catalogue", "list"],
        ["paper-plans"],
    )
    assert "zarr" in packages
    assert not packages & HEAVY


def test_scoring_files_loads_nothing_of_training(tmp_path: Path):
    labels = write_street(tmp_path / "kitti") / "training" / "label_2"
    results = tmp_path / "results"
    results.mkdir()
    (results / "000000.txt").touch()
    packages = loaded_by(["score-kitti", str(labels), str(results)])
    assert "torch" in packages
    assert not packages & (HEAVY | {"zarr"})
