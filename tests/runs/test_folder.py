import json
from pathlib import Path

import pytest
from pydantic import BaseModel
from torch import nn

from runs.checkpoint import is_finished, save_checkpoint
from runs.config import RunConfig
from runs.errors import ConfigError
from runs.folder import RECORD, claim_folder


class Data(BaseModel):
    root: str = "here"
    split: str = "train"
    labelled: float = 1.0


class Run(RunConfig):
    name: str = "a"
    data: Data = Data()


RUN = Run()


def test_a_folder_belongs_to_its_first_run(tmp_path: Path):
    claim_folder(tmp_path / "run", RUN, resume=False)
    with pytest.raises(ConfigError, match="holds a run already: continue it with --resume"):
        claim_folder(tmp_path / "run", RUN, resume=False)
    claim_folder(tmp_path / "run", RUN, resume=True)
    with pytest.raises(ConfigError, match="begun with another config"):
        claim_folder(tmp_path / "run", Run(name="b"), resume=True)


def test_the_data_may_move(tmp_path: Path):
    claim_folder(tmp_path / "run", RUN, resume=False)
    claim_folder(tmp_path / "run", Run(data=Data(root="there")), resume=True)
    with pytest.raises(ConfigError, match="begun with another config"):
        claim_folder(tmp_path / "run", Run(data=Data(split="val")), resume=True)


def test_a_run_goes_on_with_the_cache_it_was_begun_with(tmp_path: Path):
    claim_folder(tmp_path / "run", RUN, resume=False, notes={"cache": "a" * 64})
    claim_folder(tmp_path / "run", RUN, resume=True, notes={"cache": "a" * 64})
    with pytest.raises(ConfigError, match=r"begun with the cache of sha256 aaa.*, found bbb"):
        claim_folder(tmp_path / "run", RUN, resume=True, notes={"cache": "b" * 64})


def test_a_field_that_came_later_has_its_default(tmp_path: Path):
    old = {"name": "a", "data": {"root": "here", "split": "train"}}
    save_checkpoint(tmp_path / "x.pt", "student", old, nn.Linear(1, 1), {"cache": "c"})
    few = Run(data=Data(labelled=0.1))
    assert is_finished(tmp_path / "x.pt", RUN, cache="c")
    assert not is_finished(tmp_path / "x.pt", RUN, cache="d")
    assert not is_finished(tmp_path / "x.pt", few, cache="c")
    (tmp_path / RECORD).write_text(json.dumps(old | {"cache": "c"}))
    claim_folder(tmp_path, RUN, resume=True, notes={"cache": "c"})
    assert json.loads((tmp_path / RECORD).read_text())["data"]["labelled"] == 1.0
    with pytest.raises(ConfigError, match="begun with another config"):
        claim_folder(tmp_path, few, resume=True, notes={"cache": "c"})
    # One that no longer fits the model is another run's, not a failure.
    (tmp_path / RECORD).write_text(json.dumps({"name": 1, "data": {}}))
    with pytest.raises(ConfigError, match="begun with another config"):
        claim_folder(tmp_path, RUN, resume=True)


def test_a_kill_while_the_record_is_written_leaves_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    claim_folder(tmp_path, RUN, resume=False)
    whole = (tmp_path / RECORD).read_text()

    def killed(path: Path, text: str) -> None:
        path.write_bytes(text.encode()[:10])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            claim_folder(tmp_path, RUN, resume=True)
    assert (tmp_path / RECORD).read_text() == whole
    claim_folder(tmp_path, RUN, resume=True)


@pytest.mark.parametrize("text", ["null", "[]", "3"])
def test_a_record_of_something_else_is_damaged(text: str, tmp_path: Path):
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(ConfigError, match=r"is damaged \(Input should be an object\)"):
        claim_folder(tmp_path, RUN, resume=True)


def test_a_damaged_record_says_what_to_do(tmp_path: Path):
    claim_folder(tmp_path, RUN, resume=False)
    (tmp_path / RECORD).write_text((tmp_path / RECORD).read_text()[:20])
    with pytest.raises(ConfigError, match=r"config.json is damaged \(.*remove that file and go on"):
        claim_folder(tmp_path, RUN, resume=True)
    (tmp_path / RECORD).unlink()
    claim_folder(tmp_path, RUN, resume=True)
