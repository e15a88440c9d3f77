"""What the pages claim exists: links, configs, commands, options, names; their Python runs."""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
import torch
import typer.main
from typer.testing import CliRunner

import cli
from frames.kitti.labels import KittiObject, write_objects
from frames.nuscenes import NuScenesConfig, read_frames
from store.catalogue import Catalogue
from store.reader import open_cache

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
README = ROOT / "README.md"
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path, language: str) -> list[str]:
    """The page's fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def command_lines(page: Path) -> Iterator[list[str]]:
    """Words of each command in the page's bash blocks, variables before it left out."""
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield [word for word in words if not re.match(r"[A-Z_]+=", word)]


def commands() -> dict[str, click.Command]:
    group = typer.main.get_command(cli.app)
    return group.commands  # type: ignore[attr-defined,no-any-return]


def options(command: click.Command) -> set[str]:
    """Of a command, or of all in a group."""
    known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    return known.union(*(options(part) for part in getattr(command, "commands", {}).values()))


def defined_names(path: Path) -> set[str]:
    """Names a module defines, those in its classes dotted."""
    return set(_names(ast.parse(path.read_text()).body))


def _names(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield prefix + node.name
        if isinstance(node, ast.ClassDef):
            yield from _names(node.body, f"{prefix}{node.name}.")
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        yield from (prefix + target.id for target in targets if isinstance(target, ast.Name))


@each_page
def test_relative_links_lead_somewhere(page: Path):
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    relative = [link.split("#")[0] for link in links if "://" not in link]
    assert [link for link in relative if not (page.parent / link).exists()] == []


@each_page
def test_named_configs_exist(page: Path):
    named = re.findall(r"configs/\w+\.toml", page.read_text())
    assert [name for name in named if not (ROOT / name).is_file()] == []


@each_page
def test_names_given_with_their_file_exist(page: Path):
    named = re.findall(r"`([\w./]+\.py): ([\w.]+)`", page.read_text())
    missing = [
        f"{file}: {name}"
        for file, name in named
        if not (ROOT / file).is_file() or name not in defined_names(ROOT / file)
    ]
    assert missing == []


@each_page
def test_named_source_files_exist(page: Path):
    named = re.findall(r"`((?:\w+/)+\w+\.py)\b", page.read_text())
    assert [n for n in named if not (ROOT / n).is_file() and "NAME" not in n] == []


@each_page
def test_commands_and_their_options_exist(page: Path):
    known = commands()
    for program, *words in command_lines(page):
        if Path(program).name == "make":
            assert set(words) <= make_targets(), words
        elif Path(program).name == "bevcache":
            command, *arguments = words
            assert command in known, command
            parts = getattr(known[command], "commands", None)
            assert parts is None or arguments[0] in parts, arguments
            given = {word for word in arguments if word.startswith("--")}
            assert given <= options(known[command]), command


@each_page
def test_options_named_in_prose_exist(page: Path):
    known = set().union(*(options(command) for command in commands().values()))
    named = re.findall(r"`(--[a-z-]+)", prose(page))
    assert [name for name in named if name not in known] == []


@each_page
def test_make_targets_named_in_prose_exist(page: Path):
    assert set(re.findall(r"`make ([a-z-]+)`", prose(page))) <= make_targets()


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_the_readme_has_commands_to_check():
    programs = [Path(words[0]).name for words in command_lines(README) if words]
    assert programs.count("bevcache") >= 5


def test_the_catalogue_on_its_page_is_one():
    (block,) = blocks(ROOT / "docs" / "sharing.md", "json")
    catalogue = Catalogue.parse(block.encode(), "docs/sharing.md")
    assert catalogue.encode() == block.encode(), "as it is written"


def test_a_name_that_is_not_there_is_noticed():
    names = defined_names(ROOT / "frames" / "grid.py")
    assert {"BEVGrid", "BEVGrid.to_cells", "BEVGrid.cell_size"} <= names
    assert "BEVGrid.to_metres" not in names


def test_the_loss_in_ones_own_training_code_runs():
    (block,) = blocks(ROOT / "docs" / "methods.md", "python")
    scope: dict[str, torch.Tensor] = {}
    exec(compile(block, "docs/methods.md", "exec"), scope)
    gradient = scope["student"].grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_readmes_own_teacher_is_dumped(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (block,) = blocks(README, "python")
    (tmp_path / "readme_teacher.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    done = CliRunner().invoke(
        cli.app,
        [
            *("dump-teacher", str(ROOT / "configs" / "demo_student.toml"), "--methods", "xgd"),
            *("--teacher", "readme_teacher:factory", "--device", "cpu"),
            *("--data-root", str(world), "--out", str(tmp_path / "store")),
        ],
    )
    assert done.exit_code == 0, done.output
    cache = open_cache(tmp_path / "store")
    frames = read_frames(NuScenesConfig(root=world, version="v1.0-world", split="world_train"))
    for frame in frames:
        centres = torch.from_numpy(cache[frame.token].arrays["boxes/centre"])
        assert centres.equal(frame.boxes.values[:, :3])


def test_kitti_results_are_scored_as_its_page_does(tmp_path: Path):
    scope: dict[str, Any] = {}
    exec(compile(blocks(ROOT / "docs" / "kitti.md", "python")[-1], "docs/kitti.md", "exec"), scope)
    labels, results = tmp_path / "labels", tmp_path / "results"
    for folder in (labels, results):
        folder.mkdir()
    for frame in range(6):
        cars = [
            KittiObject(
                kind="Car",
                truncation=0,
                occlusion=0,
                alpha=0,
                bbox=(100.0 * k, 0, 100.0 * k + 90, 50),
                box=(20, 6.0 * k - 30, -1, 4, 2, 1.5, 0),
            )
            for k in range(10)
        ]
        write_objects(labels / f"{frame:06d}.txt", cars)
        # In one frame of three nothing is found: recall 2/3, to which 27/40 is the nearest.
        found = [replace(car, score=0.5 + 0.01 * k) for k, car in enumerate(cars) if frame % 3]
        write_objects(results / f"{frame:06d}.txt", found)
    assert scope["moderate_cars"](labels, results) == pytest.approx(100 * 27 / 40)
