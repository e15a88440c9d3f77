"""The folder of a training run: it belongs to one run and one cache."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from runs.config import RunConfig, renewed
from runs.errors import ConfigError
from runs.files import replacing

RECORD = "config.json"


def claim_folder(
    folder: Path, run: RunConfig, *, resume: bool, notes: Mapping[str, Any] | None = None
) -> None:
    """Make the folder this run's; called when everything else has been checked.

    Args:
        folder: Of the run.
        run: Its config.
        resume: Whether it may have been begun.
        notes: What else it belongs to, by digest: its cache, the student that it starts from.

    Raises:
        ConfigError: It holds another run, or an earlier one and ``resume`` was not asked for; or
            its record is damaged.
    """
    record, config = folder / RECORD, run.record() | dict(notes or {})
    if record.is_file():
        if not resume:
            raise ConfigError(
                f"{folder} holds a run already: continue it with --resume, or name another folder"
            )
        begun = renewed(_begun(record), type(run))
        for key in notes or {}:
            # A note that an older release did not know is None.
            then, now = begun.setdefault(key, None), config[key]
            if then != now:
                raise ConfigError(
                    f"{folder} was begun with the {key} of sha256 {then}, found {now}: give that "
                    "one (None: leave it out), or name another folder"
                )
        if _without_place(begun) != _without_place(config):
            raise ConfigError(
                f"{folder} was begun with another config ({record}): name another folder, or "
                "remove that one"
            )
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(record) as partial:
        partial.write_text(json.dumps(config, indent=2))


def _begun(record: Path) -> dict[str, Any]:
    """The config that a folder was begun with."""
    try:
        return TypeAdapter(dict[str, Any]).validate_json(record.read_bytes())
    except ValidationError as error:
        raise ConfigError(
            f"{record} is damaged ({error.errors()[0]['msg']}): if this config is the one its run "
            "was begun with, remove that file and go on with --resume; else name another folder"
        ) from error


def _without_place(config: dict[str, Any]) -> dict[str, Any]:
    """The config but for where the data lie, which may move."""
    data = {key: value for key, value in (config.get("data") or {}).items() if key != "root"}
    return config | {"data": data}
