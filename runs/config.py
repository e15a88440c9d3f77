"""One TOML is one run: reading it strictly into its pydantic model."""

import difflib
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from runs.errors import ConfigError

Config = TypeVar("Config", bound=BaseModel)


class RunConfig(BaseModel):
    """Everything a run is made of: one TOML."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def record(self) -> dict[str, Any]:
        """What its folder and its checkpoint say of it, as plain JSON values."""
        return self.own(self.model_dump(mode="json"))

    @classmethod
    def own(cls, values: dict[str, Any]) -> dict[str, Any]:
        """What of the plain values of such a run says something of it: all, unless overridden."""
        return values


def load_config(path: Path, model: type[Config], **paths: Path | None) -> Config:
    """Read a run's TOML.

    Args:
        path: The file.
        model: What it must hold; unknown keys are refused.
        **paths: Values from the command line, "section__key" or "section__table__key"; None leaves
            the file's value.

    Raises:
        ConfigError: Missing file, TOML syntax, unknown key (the nearest known one is named), or a
            value out of bounds.
    """
    try:
        values = tomllib.loads(path.read_text())
    except FileNotFoundError:
        found = ", ".join(sorted(p.name for p in path.parent.glob("*.toml"))) or "no .toml file"
        raise ConfigError(f"no config {path}; {path.parent} holds {found}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    for name, value in paths.items():
        if value is not None:
            *sections, key = name.split("__")
            table = values
            for section in sections:
                table = table.setdefault(section, {})
            table[key] = str(value)
    return parse_config(values, model, str(path))


def parse_config(values: dict[str, Any], model: type[Config], source: str) -> Config:
    """Validate plain values (a TOML's, a checkpoint's) against their model."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [_explain(dict(item), model) for item in error.errors()]
        raise ConfigError(f"{source} does not fit:\n  " + "\n  ".join(lines)) from None


def renewed(values: dict[str, Any], model: type[RunConfig]) -> dict[str, Any]:
    """A run's record as this release writes it: what it lacks, as it is older, has its default.

    Args:
        values: The record; keys that are no fields of the model stay, and all if it does not fit.
        model: Of its run.
    """
    own = {key: value for key, value in model.own(values).items() if key in model.model_fields}
    try:
        return values | model.model_validate(own).record()
    except ValidationError:
        return values


def _explain(item: dict[str, Any], model: type[BaseModel]) -> str:
    *parents, key = [str(part) for part in item["loc"]] or ["(top level)"]
    where = ".".join([*_fields(model, parents), key])
    if item["type"] != "extra_forbidden":
        return f"{where}: {item['msg']} (found {_short(item.get('input'))})"
    known = sorted(_known_keys(model, parents))
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.3)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{where}: unknown key{hint} (known here: {', '.join(known)})"


def _known_keys(model: type[BaseModel], parents: list[str]) -> set[str]:
    """Fields of the model found by following the parents through nested models."""
    candidates = [model]
    for part in parents:
        # A union's tag is part of the location but no field: those that have it stay.
        candidates = _deeper(candidates, part) or _tagged(candidates, part) or candidates
    return {name for candidate in candidates for name in candidate.model_fields}


def _fields(model: type[BaseModel], parents: list[str]) -> list[str]:
    """The location as a TOML has it: without the tags of unions."""
    candidates, kept = [model], []
    for part in parents:
        deeper = _deeper(candidates, part)
        known = {name for candidate in candidates for name in candidate.model_fields}
        if part in known or part.isdigit():
            kept.append(part)
        candidates = deeper or candidates
    return kept


def _deeper(candidates: list[type[BaseModel]], part: str) -> list[type[BaseModel]]:
    return [
        nested
        for candidate in candidates
        if part in candidate.model_fields
        for nested in _models_in(candidate.model_fields[part].annotation)
    ]


def _tagged(candidates: list[type[BaseModel]], tag: str) -> list[type[BaseModel]]:
    return [
        candidate
        for candidate in candidates
        if any(field.default == tag for field in candidate.model_fields.values())
    ]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for arg in getattr(annotation, "__args__", ()) for found in _models_in(arg)]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"
