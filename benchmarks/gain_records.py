"""One small JSON file a finished run of ``benchmarks/gains.py``: all that tables and pictures need.

They outlive the machine that made them and are meant to be committed, so they hold no paths.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from benchmarks.gain_tables import Result, Run
from benchmarks.machine import machine
from runs.config import RunConfig
from runs.errors import ConfigError
from runs.files import replacing
from teacher_dump.dump import code_revision

DIGITS = 6
# Where data and networks lie is no part of what a run is.
PLACES: dict[str, Any] = {"data": {"root"}, "methods": {"labeldistill": {"label_encoder"}}}


def config_hash(runs: Sequence[BaseModel]) -> str:
    """sha256 of what resolved runs set otherwise than their defaults, their places left out.

    So a field that is new and at its default changes nothing.
    """
    values = [_set(run) for run in runs]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _set(run: BaseModel) -> dict[str, Any]:
    values = run.model_dump(mode="json", exclude_defaults=True, exclude=PLACES)
    return run.own(values) if isinstance(run, RunConfig) else values


@dataclass(frozen=True, slots=True)
class Records:
    """The records of one part.

    Attributes:
        folder: Of all parts' records.
        part: Which one's.
    """

    folder: Path
    part: str

    def write(self, run: Run, configs: Sequence[BaseModel], result: Result) -> None:
        """Write a run's record; an older one of the same checkpoint is replaced.

        Raises:
            ConfigError: There is one of another checkpoint.

        Args:
            run: Arm or teacher, and its seed.
            configs: As it was trained; then those of what it started from.
            result: Scores, figures, costs.
        """
        facts = {
            "part": self.part,
            "arm": run[0],
            "seed": run[1],
            "config_sha256": config_hash(configs),
            "commit": code_revision(),
            "machine": machine(),
            "date": datetime.now(UTC).date().isoformat(),
        }
        path = self._path(run)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._refuse_another(path, result["checkpoint_sha256"])
        with replacing(path) as partial:
            partial.write_text(json.dumps(facts | _rounded(result), indent=1) + "\n")

    def _refuse_another(self, path: Path, sha256: str) -> None:
        """Compared arms are of one start and one teacher: no other takes its place."""
        found = json.loads(path.read_text())["checkpoint_sha256"] if path.is_file() else sha256
        if found != sha256:
            raise ConfigError(
                f"{path} is of checkpoint {found[:12]}, now {sha256[:12]}: go on in the --out of "
                "that one, or give another --records"
            )

    def has(self, run: Run, configs: Sequence[BaseModel]) -> bool:
        """Whether this very run is recorded.

        Raises:
            ConfigError: A run of that name with another config is.
        """
        path = self._path(run)
        if not path.is_file():
            return False
        found, expected = json.loads(path.read_text())["config_sha256"], config_hash(configs)
        if found != expected:
            raise ConfigError(
                f"{path} is of another config (sha256 {found[:12]}, now {expected[:12]}): remove "
                "it, or give another --records"
            )
        return True

    def read(self, names: Iterable[str]) -> dict[Run, Result]:
        """What is recorded of these arms and teachers, in their order and by seed."""
        found: dict[Run, Result] = {}
        for path in sorted((self.folder / self.part).glob("*.json")):
            record = json.loads(path.read_text())
            found[record["arm"], record["seed"]] = record
        return {run: found[run] for name in names for run in sorted(found) if run[0] == name}

    def _path(self, run: Run) -> Path:
        return self.folder / self.part / f"{run[0]}-{run[1]}.json"


def origins(results: Iterable[Result]) -> list[str]:
    """Under which commits, on which machines and days these runs were made, one line each."""
    made = {(r["date"], r["commit"], r["machine"]): 0 for r in results}
    return [f"{date}, {commit}, {where}" for date, commit, where in sorted(made)]


def _rounded(value: Any) -> Any:
    """The same with fewer digits, which make the file small."""
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
