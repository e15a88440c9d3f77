"""A team's names for its stores: one small JSON file, and what ``team:NAME`` stands for."""

import json
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from store.catalogue_file import PREFIX, VARIABLE, CatalogueFile, catalogue_file
from store.errors import CatalogueError, RemoteError, explained
from store.manifest import MAX_ROWS, Manifest
from store.remote import Remote, is_url
from store.schema import Sha256

MAX_LISTED = 1000


def _line(text: str) -> str:
    # What is listed is printed on consoles: no escape sequence, line break or reversed text.
    if not text.isprintable():
        raise ValueError("expected one line of printable characters")
    return text


def _location(text: str) -> str:
    if is_url(text):
        try:
            Remote(text)
        except RemoteError as error:
            raise ValueError(str(error)) from error
    elif text.startswith(PREFIX) or ".." in PurePosixPath(text).parts:
        raise ValueError("expected a URL, or a path without '..': absolute, or from this file on")
    return text


Line = Annotated[str, StringConstraints(min_length=1, max_length=500), AfterValidator(_line)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=64)]


class Listing(BaseModel):
    """What a catalogue says of one store.

    Attributes:
        location: URL or path; a relative path begins at the catalogue's own folder.
        manifest_hash: Identity of the store; another one found there is refused.
        teacher: Who spoke.
        dataset: Name and version of the data.
        split: Of the data.
        rows: So many.
        bytes: Of all its files.
        description: For people.
        licence: Under which terms the store may be used, and the data behind it.
        added: Day (UTC).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    location: Annotated[Line, AfterValidator(_location)]
    manifest_hash: Sha256
    teacher: Line
    dataset: Line
    split: Line
    rows: int = Field(ge=1, le=MAX_ROWS)
    bytes: int = Field(ge=0, lt=1 << 63)
    description: Line
    licence: Line
    added: date

    @classmethod
    def of(cls, manifest: Manifest, location: str, description: str, licence: str) -> "Listing":
        """The listing of a finished store, added today.

        Raises:
            CatalogueError: Something of it does not fit a catalogue.
        """
        made_for = manifest.fingerprint
        fields = {
            "location": location,
            "manifest_hash": manifest.root_hash,
            "teacher": made_for.teacher.name,
            "dataset": f"{made_for.dataset.name} {made_for.dataset.version}",
            "split": made_for.dataset.split,
            "rows": manifest.counts.rows,
            "bytes": manifest.size,
            "description": description,
            "licence": licence,
            "added": datetime.now(UTC).date(),
        }
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise CatalogueError(f"this store cannot be listed: {explained(error)}") from error


class Catalogue(BaseModel):
    """A catalogue's file.

    Attributes:
        catalogue: Version of this file's form.
        stores: By name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    catalogue: Literal[1] = 1
    stores: dict[Name, Listing] = Field(default={}, max_length=MAX_LISTED)

    def encode(self) -> bytes:
        """The file: sorted and indented, so that it can be read and kept under version control."""
        document = self.model_dump(mode="json")
        return f"{json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False)}\n".encode()

    @classmethod
    def parse(cls, data: bytes | None, name: str) -> "Catalogue":
        """The catalogue in these bytes, or an empty one for None; ``name`` is for messages.

        Raises:
            CatalogueError: They are no catalogue.
        """
        if data is None:
            return cls()
        try:
            json.loads(data, object_pairs_hook=_no_key_twice)
            return cls.model_validate_json(data, strict=True)
        except ValidationError as error:
            reason = explained(error)
        except (ValueError, RecursionError) as error:
            reason = str(error)
        raise CatalogueError(f"{name} is no catalogue: {reason}")

    def with_store(self, name: str, listing: Listing, *, replace: bool = False) -> "Catalogue":
        """This catalogue with one more store; the same store listed again changes nothing.

        Raises:
            CatalogueError: The name is taken, or is none.
        """
        listed = self.stores.get(name)
        if listed and listed.model_copy(update={"added": listing.added}) == listing:
            return self
        if listed and not replace:
            raise CatalogueError(
                f"{PREFIX}{name} is listed already (manifest {listed.manifest_hash[:12]}, at "
                f"{listed.location}; given {listing.manifest_hash[:12]}, at {listing.location}): "
                "give a new version a new name, or --replace the old one"
            )
        stores = {key: value.model_dump() for key, value in self.stores.items()}
        try:
            return Catalogue.model_validate({"stores": stores | {name: listing.model_dump()}})
        except ValidationError as error:
            raise CatalogueError(
                f"{name!r} cannot be listed: {explained(error)}. A name is of a-z, 0-9, "
                "'.' and '-', at most 64 characters, and begins with a letter or digit"
            ) from error

    def without_store(self, name: str) -> "Catalogue":
        """This catalogue without a name; the store itself stays where it is.

        Raises:
            CatalogueError: It is not listed.
        """
        self.listing(name)
        return Catalogue(stores={key: value for key, value in self.stores.items() if key != name})

    def listing(self, name: str) -> Listing:
        """What is listed under a name.

        Raises:
            CatalogueError: Nothing is.
        """
        if name not in self.stores:
            known = ", ".join(sorted(self.stores)) or "nothing"
            raise CatalogueError(f"the catalogue lists no {name!r}; it lists {known}")
        return self.stores[name]


def read_catalogue(file: CatalogueFile) -> Catalogue:
    """The catalogue in a file that must be there.

    Raises:
        CatalogueError: There is none, or something else.
        RemoteError: Its service does not answer.
    """
    data = file.read()
    if data is None:
        raise CatalogueError(
            f"{file.name} is not there; `bevcache catalogue add` makes it, or set {VARIABLE} anew"
        )
    return Catalogue.parse(data, file.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class StorePlace:
    """Where a store is, and which one it must be.

    Attributes:
        location: Path or URL.
        listed_as: ``team:NAME`` if a catalogue named it, else "".
        manifest_hash: Identity by the catalogue; "" where none is expected.
    """

    location: Path | str
    listed_as: str = ""
    manifest_hash: str = ""

    def check(self, found: str) -> None:
        """Refuse another store than the listed one.

        Args:
            found: Its manifest's hash.

        Raises:
            CatalogueError: It is another.
        """
        if self.listed_as and found != self.manifest_hash:
            raise CatalogueError(
                f"{self.listed_as} at {self.location}: found manifest {found or 'none'}, expected "
                f"{self.manifest_hash}, as the catalogue lists it. Get the listed store back, or "
                "list the new one under a new name"
            )


def resolve(place: Path | str) -> StorePlace:
    """What ``team:NAME`` stands for in the catalogue of ``BEVCACHE_CATALOGUE``.

    Any other text or path is the location itself.

    Raises:
        CatalogueError: The name is not listed, or there is no catalogue.
        RemoteError: The catalogue's service does not answer.
    """
    if not isinstance(place, str) or not place.startswith(PREFIX):
        return StorePlace(location=place)
    file = catalogue_file()
    listing = read_catalogue(file).listing(place.removeprefix(PREFIX))
    return StorePlace(
        location=file.absolute(listing.location),
        listed_as=place,
        manifest_hash=listing.manifest_hash,
    )


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        raise ValueError(f"{sorted(twice)[:5]} come twice in one object")
    return document
