"""What a training run logged, read back from its ``metrics.csv``."""

import csv
from pathlib import Path


def last_values(run_dir: Path, prefix: str = "") -> dict[str, float]:
    """Each metric's last logged value, for names that begin with the prefix."""
    values: dict[str, float] = {}
    with (run_dir / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            values |= {k: float(v) for k, v in row.items() if v and k.startswith(prefix)}
    return values
