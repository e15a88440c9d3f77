from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from runs.config import load_config
from runs.errors import ConfigError


class Inner(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    learning_rate: float = 1.0
    steps: PositiveInt = 1


class Outer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    root: str = ""
    fit: Inner = Inner()


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


def test_values_arrive(tmp_path: Path):
    config = load_config(write(tmp_path, "[fit]\nsteps = 7\n"), Outer)
    assert config.fit.steps == 7


def test_an_unknown_key_names_the_nearest(tmp_path: Path):
    path = write(tmp_path, "[fit]\nlearning_rte = 0.1\n")
    with pytest.raises(ConfigError, match=r"fit.learning_rte: unknown key; did you mean 'learn"):
        load_config(path, Outer)


def test_an_unknown_section_lists_the_known(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"zzz: unknown key \(known here: fit, root\)"):
        load_config(write(tmp_path, "[zzz]\na = 1\n"), Outer)


def test_a_bad_value_says_what_was_found(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"fit.steps: .*greater than 0 \(found -3\)"):
        load_config(write(tmp_path, "[fit]\nsteps = -3\n"), Outer)


def test_a_missing_file_names_its_neighbours(tmp_path: Path):
    write(tmp_path, "")
    with pytest.raises(ConfigError, match=r"no config .*gone.toml; .* holds run.toml"):
        load_config(tmp_path / "gone.toml", Outer)


def test_broken_toml(tmp_path: Path):
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(write(tmp_path, "[fit\n"), Outer)


def test_paths_of_the_command_line_win(tmp_path: Path):
    assert load_config(write(tmp_path, 'root = "a"'), Outer, root=None).root == "a"


def test_paths_reach_tables_of_tables(tmp_path: Path):
    class Nested(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")
        outer: Outer = Outer()

    path = write(tmp_path, "[outer.fit]\nsteps = 2\n")
    config = load_config(path, Nested, outer__root=Path("here"), outer__fit__steps=Path("3"))
    assert (config.outer.root, config.outer.fit.steps) == ("here", 3)


def test_an_unknown_key_of_one_of_several_is_held_against_that_one(tmp_path: Path):
    """A key of another member of the union is not what was meant."""

    class Cameras(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")
        network: Literal["cameras"] = "cameras"
        past: int = 0

    class Points(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")
        network: Literal["points"] = "points"
        sweeps: int = 0

    class Either(BaseModel):
        student: Annotated[Cameras | Points, Field(discriminator="network")]

    path = write(tmp_path, '[student]\nnetwork = "points"\npast = 1\n')
    with pytest.raises(ConfigError, match=r"student\.past: unknown .*here: network, sweeps\)"):
        load_config(path, Either)
