"""The gains' script, start to end, on a world of a few frames."""

import json
from pathlib import Path

import pytest
import typer
from PIL import Image

from benchmarks.gains import main
from runs.errors import ConfigError
from tests.commands.test_demo import WORLD
from tests.tiny import write_student_toml, write_teacher_toml

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_arms_and_seeds_end_in_tables_pictures_and_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "200")
    configs, out = tmp_path / "configs", tmp_path / "out"
    configs.mkdir()
    (configs / "gain_world.toml").write_text(WORLD)
    write_teacher_toml(configs, tmp_path).rename(configs / "gain_teacher.toml")
    write_student_toml(configs, tmp_path).rename(configs / "gain_student.toml")
    main(out, arms="none,imitation", seeds="0,1", configs=configs)
    printed = capsys.readouterr().out
    assert "paired difference" in printed
    assert "bytes / frame" in printed
    assert "0-20 m" in printed
    for name in ("gain_bytes.png", "gain_groups.png"):
        with Image.open(out / name) as picture:
            assert picture.width > 200
    # Another machine has the records alone; nothing is run there.
    kept = out.rename(tmp_path / "kept") / "records"
    files = sorted(path.name for path in (kept / "nuscenes").iterdir())
    assert files == [
        *("imitation-0.json", "imitation-1.json", "none-0.json", "none-1.json", "teacher-0.json")
    ]
    assert all((kept / "nuscenes" / name).stat().st_size < 20_000 for name in files)
    record = json.loads((kept / "nuscenes" / "imitation-1.json").read_text())
    assert (record["part"], record["arm"], record["seed"]) == ("nuscenes", "imitation", 1)
    assert {"config_sha256", "commit", "machine", "date", "scores", "costs"} <= record.keys()
    assert str(tmp_path) not in json.dumps(record)
    main(records=kept, only_tables=True)
    again = capsys.readouterr().out
    assert "paired difference" in again
    assert record["commit"] in again
    assert (kept / "nuscenes" / "gain_bytes.png").is_file()
    main(out, arms="none,imitation", seeds="0,1", configs=configs, records=kept)
    assert not (out / "world").exists()
    with pytest.raises(typer.BadParameter, match="no record of xgd"):
        main(arms="xgd", records=kept, only_tables=True)
    with pytest.raises(typer.BadParameter, match="--out is needed"):
        main(arms="xgd")
    write_student_toml(configs, tmp_path, steps=3).rename(configs / "gain_student.toml")
    with pytest.raises(ConfigError, match=r"none-0\.json is of another config"):
        main(out, arms="none", seeds="0", configs=configs, records=kept)
