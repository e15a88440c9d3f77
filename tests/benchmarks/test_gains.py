"""The gains' script, start to end, on a world of a few frames."""

import json
from pathlib import Path

import pytest
import typer
from PIL import Image

from benchmarks.gain_parts import PARTS, Arm, Part, arms_at
from benchmarks.gain_pictures import over_labels
from benchmarks.gain_records import Records, config_hash
from benchmarks.gain_runs import Comparison
from benchmarks.gains import main
from runs.checkpoint import load_checkpoint
from runs.errors import ConfigError
from store.choices import Encoding
from store.reader import open_cache
from tests.commands.test_demo import WORLD
from tests.tiny import write_past_student_toml, write_student_toml, write_teacher_toml
from tests.tiny_labels import write_label_encoder_toml, write_staged_teacher_toml

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CONFIGS = Path(__file__).parent.parent.parent / "configs"


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
    assert not (out / "gain_labels.png").exists()
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
    assert "| imitation | " in (kept / "nuscenes" / "tables.md").read_text()
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


def test_what_is_not_known_is_named(tmp_path: Path):
    with pytest.raises(typer.BadParameter, match="unknown part 'foo'; known: nuscenes, kitti"):
        main(tmp_path / "out", part="foo")
    with pytest.raises(typer.BadParameter, match="unknown arm 'foo'; known: none, imitation"):
        main(tmp_path / "out", arms="none, foo")
    with pytest.raises(typer.BadParameter, match="seeds are numbers, found '0,a'"):
        main(tmp_path / "out", seeds="0,a")


def test_an_arm_may_have_a_smaller_cache_of_its_own(
    configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_student_toml(configs, tmp_path).rename(configs / "gain_student.toml")
    small = Arm("imitation", own_store="uint8", encoding=Encoding.UINT8)
    monkeypatch.setitem(PARTS["nuscenes"].arms, "small", small)
    main(tmp_path / "out", arms="small", seeds="0", configs=configs)
    arrays = open_cache(tmp_path / "out" / "nuscenes" / "store_uint8").fingerprint.arrays
    assert Encoding.UINT8 in [array.encoding for array in arrays]


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    """TOMLs of a tiny world and a tiny teacher with stages."""
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "gain_world.toml").write_text(WORLD)
    write_staged_teacher_toml(folder, tmp_path).rename(folder / "gain_teacher.toml")
    return folder


def test_few_labels_have_teachers_and_caches_of_their_own(configs: Path, tmp_path: Path):
    """Also a cache that another arm of the part needs is there at once."""
    write_past_student_toml(configs, tmp_path).rename(configs / "gain_history_student.toml")
    out = tmp_path / "out"
    arms = "none_50,only_50,imitation_50,imitation_50_all,pseudo_50"
    main(out, part="few_labels", arms=arms, seeds="0", configs=configs)
    own = out / "methods"
    stores = {path.name for path in own.glob("store*") if path.is_dir()}
    assert stores == {"store_50_for_50", "store_for_50"}
    notes = [open_cache(own / name).fingerprint for name in sorted(stores)]
    assert [f.dataset.ground_truth_filter["labelled"] for f in notes] == [0.5, 0.5]
    assert notes[0].teacher.checkpoint_sha256 != notes[1].teacher.checkpoint_sha256
    records = Records(out / "records", "methods")
    made = ["teacher", "teacher_50", "history_student_start_50", *arms.split(",")]
    found = records.read(made)
    assert [run[0] for run in found] == made
    begun = load_checkpoint(own / "history_student_start_50" / "student.pt")
    assert begun.config["data"]["labelled"] == 0.5
    assert {found[name, 0]["start_sha256"] for name in arms.split(",")} == {begun.sha256}
    assert found["pseudo_50", 0]["teacher_sha256"] == notes[0].teacher.checkpoint_sha256
    assert found["imitation_50_all", 0]["teacher_sha256"] == notes[1].teacher.checkpoint_sha256
    assert (out / "gain_labels.png").is_file()


def test_all_labels_are_a_point_of_every_line_of_their_method():
    arms = PARTS["few_labels"].arms
    scores = {
        ("none", 0): 0.5,
        ("none_25", 0): 0.3,
        ("only_25", 0): 0.2,
        ("imitation", 0): 0.6,
        ("imitation_25", 0): 0.4,
        ("imitation_10_all", 0): 0.1,
        ("imitation_10_all", 1): 0.2,
        ("teacher_25", 0): 0.9,
    }
    assert over_labels(scores, arms) == {
        "none": {25: [0.3], 100: [0.5]},
        "none, labelled frames alone": {25: [0.2], 100: [0.5]},
        "imitation": {25: [0.4], 100: [0.6]},
        "imitation, teacher of all labels": {10: [0.1, 0.2], 100: [0.6]},
    }
    assert over_labels(scores, PARTS["methods"].arms) == {}


def test_a_record_is_of_all_that_its_run_comes_from(configs: Path, tmp_path: Path):
    write_past_student_toml(configs, tmp_path).rename(configs / "gain_history_student.toml")
    write_label_encoder_toml(configs, tmp_path).rename(configs / "gain_label_encoder.toml")
    part, records = PARTS["methods"], Records(tmp_path, "methods")
    comparison = Comparison(part, part.arms, tmp_path, configs, records)
    arms = ("none", "imitation", "labeldistill")

    def hashes() -> list[str]:
        return [config_hash(comparison.job(name, 0).configs) for name in arms]

    def changed_by(name: str, old: str, new: str) -> list[bool]:
        before, toml = hashes(), (configs / name).read_text()
        (configs / name).write_text(toml.replace(old, new))
        after = hashes()
        (configs / name).write_text(toml)
        return [a != b for a, b in zip(before, after, strict=True)]

    assert len(set(hashes())) == 3
    steps = ("steps = 2", "steps = 3")
    assert changed_by("gain_history_student.toml", *steps) == [True, True, True]
    assert changed_by("gain_teacher.toml", *steps) == [False, True, True]
    assert changed_by("gain_label_encoder.toml", "steps = ", "steps = 1") == [False, False, True]
    assert changed_by("gain_world.toml", "train_scenes", "seed = 5\ntrain_scenes") == [True] * 3
    records.write(("teacher", 0), [], {"checkpoint_sha256": "a" * 64})
    with pytest.raises(ConfigError, match=r"teacher-0\.json is of checkpoint aaa.*, now bbb"):
        records.write(("teacher", 0), [], {"checkpoint_sha256": "b" * 64})


def test_one_student_and_one_cache_serve_all_methods(configs: Path, tmp_path: Path):
    write_past_student_toml(configs, tmp_path).rename(configs / "gain_history_student.toml")
    write_label_encoder_toml(configs, tmp_path).rename(configs / "gain_label_encoder.toml")
    out, arms = tmp_path / "out", "none,imitation,xgd+unidistill,labeldistill,label_response"
    # Its imitation is the other part's, and so is the cache.
    main(out, part="few_labels", arms="imitation", seeds="0", configs=configs)
    main(out, part="methods", arms=arms, seeds="0", configs=configs)
    assert [path.name for path in (out / "methods").glob("store*") if path.is_dir()] == ["store"]
    files = {path.name for path in (out / "records" / "methods").glob("*.json")}
    made = ["teacher", "history_student_start", *arms.split(",")]
    assert files == {f"{name}-0.json" for name in made}
    # All begin with the same student; the record is of its config, too.
    begun = load_checkpoint(out / "methods" / "history_student_start" / "student.pt")
    assert begun.config["fit"]["steps"] == 4 * 2
    for name in arms.split(","):
        assert load_checkpoint(out / "methods" / f"{name}-0" / "student.pt").notes["start"] == (
            begun.sha256
        )


def test_an_arm_may_have_a_cache_of_its_own():
    """Only it reads what is in there, so that its bytes are its own."""
    arms = PARTS["methods"].arms
    stores = {name: arm.store for name, arm in arms.items() if name.startswith("sim")}
    assert stores.pop("sim_foreground") == "sim_store_foreground"
    assert stores.pop("sim_none") is None
    assert stores.pop("sim_imitation") == "sim_store_imitation"
    assert stores.pop("sim_none_scratch") is None
    assert stores.pop("sim_uint8") == "sim_store_uint8"
    assert stores.pop("sim_bfloat16") == "sim_store_bfloat16"
    assert set(stores.values()) == {"sim_store"}
    readers = [arm for arm in arms_at("methods") if arm.store == "sim_store_foreground"]
    assert readers == [arms["sim_foreground"]]


@pytest.mark.parametrize("of", PARTS)
def test_the_configs_fit_every_arm(of: str, tmp_path: Path):
    part = PARTS[of]
    comparison = Comparison(part, part.arms, tmp_path, CONFIGS, Records(tmp_path, part.home))
    hashes = set()
    for name, arm in part.arms.items():
        run = comparison.student(arm)
        assert run.reads_cache == (arm.store is not None)
        if arm.store:
            taught = comparison.teacher(arm)
            assert taught.teacher.classes == run.student.classes
            assert taught.data.labelled == arm.teacher_labelled / 100
        hashes.add(config_hash(comparison.job(name, 0).configs))
    assert len(hashes) == len(part.arms)
    assert set(part.usual) <= set(part.arms)
    assert {arm.base for arm in part.arms.values()} <= set(part.arms)


def test_the_methods_share_the_teachers_tasks(tmp_path: Path):
    part: Part = PARTS["methods"]
    comparison = Comparison(part, part.arms, tmp_path, CONFIGS, Records(tmp_path, "methods"))
    arms: list[Arm] = [part.arms["unidistill"], part.arms["simdistill"]]
    runs = [comparison.student(arm).student for arm in arms]
    heads = [*runs, *(comparison.teacher(arm).teacher for arm in arms)]
    assert len({network.head.tasks for network in heads}) == 1  # type: ignore[union-attr]
