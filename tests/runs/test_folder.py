from pathlib import Path

import pytest

from runs.errors import ConfigError
from runs.folder import claim_folder

CONFIG = {"name": "a", "data": {"root": "here", "split": "train"}}


def test_a_folder_belongs_to_its_first_run(tmp_path: Path):
    claim_folder(tmp_path / "run", CONFIG, resume=False)
    with pytest.raises(ConfigError, match="holds a run already: continue it with --resume"):
        claim_folder(tmp_path / "run", CONFIG, resume=False)
    claim_folder(tmp_path / "run", CONFIG, resume=True)
    with pytest.raises(ConfigError, match="begun with another config"):
        claim_folder(tmp_path / "run", CONFIG | {"name": "b"}, resume=True)


def test_the_data_may_move(tmp_path: Path):
    claim_folder(tmp_path / "run", CONFIG, resume=False)
    moved = CONFIG | {"data": {"root": "there", "split": "train"}}
    claim_folder(tmp_path / "run", moved, resume=True)
    other = CONFIG | {"data": {"root": "here", "split": "val"}}
    with pytest.raises(ConfigError, match="begun with another config"):
        claim_folder(tmp_path / "run", other, resume=True)


def test_a_run_goes_on_with_the_cache_it_was_begun_with(tmp_path: Path):
    claim_folder(tmp_path / "run", CONFIG | {"cache": "a" * 64}, resume=False)
    claim_folder(tmp_path / "run", CONFIG | {"cache": "a" * 64}, resume=True)
    with pytest.raises(ConfigError, match=r"begun with the cache of manifest aaa.*, found bbb"):
        claim_folder(tmp_path / "run", CONFIG | {"cache": "b" * 64}, resume=True)
