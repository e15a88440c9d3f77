"""Commands of a team's catalogue."""

import json
from typing import Annotated

import typer

from command_line.options import AsJson, Store
from commands.progress import console

names = typer.Typer(
    no_args_is_help=True,
    help="A team's names for its caches, in the file that BEVCACHE_CATALOGUE names (path or URL).",
)
StoreName = Annotated[str, typer.Argument(help="As in team:NAME.")]


@names.command("list")
def catalogue_list(as_json: AsJson = False) -> None:
    """Show what is listed."""
    from commands import catalogue

    if as_json:
        typer.echo(json.dumps(catalogue.list_stores(), indent=2))
    else:
        console.print(catalogue.catalogue_table())


@names.command("add")
def catalogue_add(
    name: StoreName,
    store: Store,
    description: Annotated[str, typer.Option(help="For your colleagues, one line.")],
    licence: Annotated[str, typer.Option(help="Under which terms it may be used, one line.")],
    replace: Annotated[bool, typer.Option("--replace", help="Though the name is taken.")] = False,
) -> None:
    """List a cache under a name."""
    from commands import catalogue

    catalogue.add_store(name, store, description=description, licence=licence, replace=replace)


@names.command("remove")
def catalogue_remove(name: StoreName) -> None:
    """Take a name out; the cache itself stays where it is."""
    from commands import catalogue

    catalogue.remove_store(name)
