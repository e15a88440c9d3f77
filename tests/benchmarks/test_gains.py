"""The gains' script, start to end, on a world of a few frames."""

from pathlib import Path

import pytest
from PIL import Image

from benchmarks.gains import main
from tests.commands.test_demo import WORLD
from tests.tiny import write_student_toml, write_teacher_toml

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_arms_and_seeds_end_in_tables_and_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "200")
    configs, out = tmp_path / "configs", tmp_path / "out"
    configs.mkdir()
    (configs / "gain_world.toml").write_text(WORLD)
    write_teacher_toml(configs, tmp_path).rename(configs / "gain_teacher.toml")
    write_student_toml(configs, tmp_path).rename(configs / "gain_student.toml")
    for _ in range(2):  # the second time, everything is there
        main(out, arms="none,imitation", seeds="0,1", configs=configs)
        printed = capsys.readouterr().out
        assert "paired difference" in printed
        assert "bytes / frame" in printed
        assert "0-20 m" in printed
    for name in ("gain_bytes.png", "gain_groups.png"):
        with Image.open(out / name) as picture:
            assert picture.width > 200
