import json
import shutil
from pathlib import Path

import pytest

from commands import sharing
from commands.amounts import human_bytes
from store.choices import Coverage
from store.files import read_sealed_json, sealed_json
from store.merge import Merge, plan_merge
from store.reader import open_cache
from store.verify import verify
from tests.command import command, succeed
from tests.store.building import build, tree
from tests.store.merging import piece


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BEVCACHE_CATALOGUE", str(tmp_path / "catalogue.json"))
    return build(tmp_path / "toy", 3)


def add(name: str, store: object, *options: str) -> tuple[int, str]:
    return command(
        *("catalogue", "add", name, store, "--description", "a [b]toy[/b]", "--licence", "MIT"),
        *options,
    )


def test_a_catalogue_is_made_shown_and_used(team: Path, tmp_path: Path):
    manifest = open_cache(team).manifest_hash
    code, text = add("toy-v1", team)
    assert (code, text.split(", 3 rows")[0]) == (0, f"team:toy-v1 is toy, manifest {manifest[:12]}")
    shown = succeed("catalogue", "list")
    for text in ("team:toy-v1", "world v1 train", "a [b]toy[/b]", manifest[:12], "MIT"):
        assert text in shown
    stores = json.loads(succeed("catalogue", "list", "--json"))["stores"]
    assert stores["toy-v1"]["manifest_hash"] == manifest
    assert "whole; 3 rows" in succeed("verify", "team:toy-v1")
    succeed("copy", "team:toy-v1", tmp_path / "copy")
    assert tree(tmp_path / "copy") == tree(team)
    code, text = add("toy-v1", build(tmp_path / "other", 2))
    assert (code, "or --replace the old one" in text) == (1, True)
    assert add("toy-v1", tmp_path / "other", "--replace")[0] == 0
    assert "listed no more" in succeed("catalogue", "remove", "toy-v1")
    code, text = command("verify", "team:toy-v1")
    assert (code, "it lists nothing" in text) == (1, True)


def test_info_shows_what_a_team_asks_about(team: Path, tmp_path: Path):
    add("toy-v1", team)
    facts = json.loads(succeed("info", "team:toy-v1", "--json"))
    assert facts["listed_as"] == "team:toy-v1"
    assert (
        facts["bytes"]
        == sum(map(len, tree(team).values())) - (team / "manifest.json").stat().st_size
    )
    assert {a["name"]: a["max_error"] for a in facts["arrays"]}["bev_high"] == 2**-11
    more = piece(tmp_path / "more", range(3, 5), Coverage.FOREGROUND)
    succeed("merge", team, more, tmp_path / "merged")
    merged = open_cache(tmp_path / "merged")
    shown = succeed("info", tmp_path / "merged")
    for text in (
        *(merged.manifest_hash, *merged.fingerprint.sources, "merged from", "finished"),
        *("pillars (lidar)", "world v1, split train", "bev_high", "map x 4 x 6 x 8", "0.00049"),
    ):
        assert text in shown
    assert "catalogue" not in shown
    assert "team:toy-v1" in succeed("info", "team:toy-v1")


def test_merge_says_what_it_will_weigh_and_goes_on_after_ctrl_c(
    team: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    more = piece(tmp_path / "more", range(3, 20), Coverage.FOREGROUND)
    write = Merge.write

    def interrupted(self: Merge, out: Path, _on_rows: object) -> str:
        def stop(rows: int) -> None:
            if rows:
                raise KeyboardInterrupt

        return write(self, out, stop)

    monkeypatch.setattr(Merge, "write", interrupted)
    code, text = command("merge", team, more, tmp_path / "merged")
    assert code == 130
    assert "merging the rows of 2 stores" in text
    weight = human_bytes(plan_merge([team, more]).size)
    assert f"20 rows of 11 arrays, about {weight}" in text
    assert "are free on the disk of" in text
    assert "the same command goes on" in text
    monkeypatch.setattr(Merge, "write", write)
    assert "sealed" in succeed("merge", team, more, tmp_path / "merged")
    assert verify(tmp_path / "merged") == []


def test_merge_is_refused_with_every_mismatch(team: Path, tmp_path: Path):
    code, text = command("merge", team, team, tmp_path / "merged")
    assert (code, "brings no array that the stores before it lack" in text) == (1, True)
    code, text = command("merge", team, team, "s3://bucket/merged")
    assert (code, "copy the result there" in text) == (1, True)
    code, text = command("merge", team, tmp_path / "merged")
    assert (code, "at least two caches" in text) == (2, True)
    assert not (tmp_path / "merged").exists()
    assert sharing.verify_store(str(team)) == []


def test_a_password_in_a_url_is_never_printed(team: Path):
    for command_line in (
        ("copy", team, "s3://user:pw1@team/x"),
        ("verify", "s3://user:pw1@team/x"),
    ):
        code, text = command(*command_line)
        assert (code, "carries a user" in text, "pw1" in text) == (1, True, False)


def test_what_is_for_a_team_lies_where_all_can_read_it(team: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BEVCACHE_CATALOGUE", "s3://team/catalogue.json")
    code, text = add("toy-v1", team)
    assert (code, "is a folder of this machine: copy the store to a URL" in text) == (1, True)


def test_names_and_terminals_are_safe_from_a_strangers_store(team: Path):
    document = read_sealed_json(team / "manifest.json")
    del document["sha256"]
    document["fingerprint"]["teacher"]["name"] = "\x1b[31mred"
    (team / "manifest.json").write_bytes(sealed_json(document))
    shown = succeed("info", team)
    assert ("\x1b" in shown, "\\x1b[31mred" in shown) == (False, True)


def test_a_disk_that_may_be_too_small_is_told(
    team: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=10))
    text = succeed("copy", team, tmp_path / "copy")
    assert "10 B are free" in text
    assert "WARNING: that is less than the" in text
