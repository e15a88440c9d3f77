"""Options that several commands have, and what their values become."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel
from rich.table import Table

from commands.progress import console
from runs.errors import ConfigError
from student_train.registry import parse_methods

if TYPE_CHECKING:
    import torch

ConfigPath = Annotated[Path, typer.Argument(help="The run's TOML.")]


def require_folder(out: Path | None) -> Path | None:
    """Refuse a URL or a team's name where a result is written."""
    if re.match(r"[a-z0-9]+:/|team:", str(out)):
        raise typer.BadParameter(f"expected a folder, found {out}; bevcache copy takes it to a URL")
    return out


OutDir = Annotated[Path, typer.Option(callback=require_folder, help="Folder for the result.")]
DataRoot = Annotated[Path | None, typer.Option(help="Data set folder, instead of the TOML's.")]
Resume = Annotated[bool, typer.Option(help="Continue an interrupted run.")]
PrintConfig = Annotated[bool, typer.Option(help="Print the resolved config and stop.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Store = Annotated[str, typer.Argument(help="A cache: folder, URL or team:NAME.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
LabelEncoderPath = Annotated[
    Path | None, typer.Option(help="A label_encoder.pt: its maps of the boxes are targets too.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many frames.")]


def printed(config: BaseModel, wanted: bool) -> bool:
    """Whether the resolved config was wanted, which then has been printed."""
    if wanted:
        typer.echo(config.model_dump_json(indent=2))
    return wanted


def print_facts(facts: list[dict[str, Any]], table: Table, *, as_json: bool) -> None:
    """The table, or for programs the facts."""
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        console.print(table)


def find_device(name: str) -> "torch.device":
    """See :func:`runs.device.find_device`.

    Raises:
        typer.BadParameter: Another name, or there is no CUDA device.
    """
    from runs import device

    try:
        return device.find_device(name)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None


def comma_separated(text: str) -> list[str]:
    """The names in an option's value."""
    return [name.strip() for name in text.split(",")] if text else []


def parsed_method(text: str) -> str:
    """The names of methods, held to be known.

    Raises:
        typer.BadParameter: One is not.
    """
    try:
        parse_methods(text)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None
    return text
