"""What a training run logged, read back from its ``metrics.csv``."""

import csv
import statistics
from pathlib import Path


def last_values(run_dir: Path, prefix: str = "") -> dict[str, float]:
    """Each metric's last logged value, for names that begin with the prefix."""
    values: dict[str, float] = {}
    with (run_dir / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            values |= {k: float(v) for k, v in row.items() if v and k.startswith(prefix)}
    return values


def mean_values(run_dir: Path, prefixes: tuple[str, ...]) -> dict[str, float]:
    """Each metric's mean over the run's second half, named ``mean/...``."""
    series: dict[str, list[float]] = {}
    with (run_dir / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name.startswith(prefixes):
                    series.setdefault(name, []).append(float(value))
    return {
        f"mean/{name}": statistics.mean(values[len(values) // 2 :])
        for name, values in series.items()
    }
