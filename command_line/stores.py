"""Commands of finished caches."""

import json
from typing import Annotated

import typer

from command_line.options import AsJson, Store
from commands.progress import console
from store.errors import printable


def verify(store: Store) -> None:
    """Read every byte of a cache and hold it against the manifest; exit code 1 on any fault."""
    from commands import sharing

    faults = sharing.verify_store(store)
    for fault in faults:
        console.print(f"damaged: {printable(fault)}", soft_wrap=True)
    if faults:
        raise typer.Exit(1)


def copy(
    source: Store,
    destination: Annotated[str, typer.Argument(help="Folder, s3://, gs:// or az://.")],
) -> None:
    """Copy a cache; run again after an interruption, what has arrived is kept."""
    from commands import sharing

    sharing.copy(source, destination)


def merge(
    stores: Annotated[list[str], typer.Argument(help="Two or more caches, then a new folder.")],
) -> None:
    """Make one cache of several: of other frames, or of other targets of the same frames."""
    from commands import sharing

    *sources, out = stores
    if len(sources) < 2:
        raise typer.BadParameter("expected at least two caches, then a new folder")
    sharing.merge(sources, out)


def info(
    path: Annotated[str, typer.Argument(help="A cache, as for verify, or a checkpoint.")],
    as_json: AsJson = False,
) -> None:
    """Say what a cache or a checkpoint holds."""
    from commands.info import describe, tables

    facts = describe(path)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        console.print(tables(facts))
