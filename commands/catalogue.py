"""A team's names for its stores: list, add, remove."""

from typing import Any

from rich.table import Table
from rich.text import Text

from commands.amounts import human_bytes
from commands.progress import console
from store.catalogue import Catalogue, Listing, read_catalogue, resolve
from store.catalogue_file import PREFIX, catalogue_file
from store.errors import CatalogueError
from store.remote import is_url
from store.verify import finished_store


def list_stores() -> dict[str, Any]:
    """The catalogue as plain facts."""
    return read_catalogue(catalogue_file()).model_dump(mode="json")


def catalogue_table() -> Table:
    """The catalogue for people: a row a store."""
    file = catalogue_file()
    table = Table(title=file.name, show_lines=True)
    table.add_column("name", overflow="fold", min_width=20)
    for column in ("teacher, data, size", "description, licence", "added, location, manifest"):
        table.add_column(column, overflow="fold")
    for name, store in sorted(read_catalogue(file).stores.items()):
        size = f"{store.rows:,} rows, {human_bytes(store.bytes)}"
        cells = (
            f"{PREFIX}{name}",
            f"{store.teacher}\n{store.dataset} {store.split}\n{size}",
            f"{store.description}\n{store.licence}",
            f"{store.added}\n{store.location}\n{store.manifest_hash[:12]}",
        )
        # Text: brackets in what others wrote are no markup.
        table.add_row(*map(Text, cells))
    return table


def add_store(
    name: str, place: str, *, description: str, licence: str, replace: bool = False
) -> None:
    """List a finished store under a name."""
    file = catalogue_file()
    _, manifest = finished_store(place)
    location = file.relative(resolve(place).location)
    if is_url(file.name) and not is_url(location):
        raise CatalogueError(
            f"{file.name} is for a team, and {location} is a folder of this machine: copy the "
            "store to a URL that all can read, and list that"
        )
    listing = Listing.of(manifest, location, description, licence)

    def edit(found: bytes | None) -> bytes:
        known = Catalogue.parse(found, file.name)
        return known.with_store(name, listing, replace=replace).encode()

    file.change(edit)
    console.print(
        f"{PREFIX}{name} is {listing.location}, manifest {manifest.root_hash[:12]}, "
        f"{listing.rows} rows, {human_bytes(listing.bytes)}",
        markup=False,
    )


def remove_store(name: str) -> None:
    """Take a name out of the catalogue; the store itself stays."""
    file = catalogue_file()
    read_catalogue(file)
    file.change(lambda found: Catalogue.parse(found, file.name).without_store(name).encode())
    console.print(f"{PREFIX}{name} is listed no more; its files are where they were")
