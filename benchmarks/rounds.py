"""Interleaved rounds, so that the machine's moods hit all alike, and tables of what they took."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Report:
    """A table.

    Attributes:
        title: What was measured.
        columns: Headings; the first names the row.
        rows: Cells.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def rich(self) -> Table:
        """For the console."""
        table = Table(title=self.title)
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="right" if index else "left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For the report."""
        rule = ["---", *["---:"] * (len(self.columns) - 1)]
        rows = (self.columns, rule, *self.rows)
        lines = [f"| {' | '.join(row)} |".replace("\n", " ") for row in rows]
        return "\n".join([f"## {self.title}\n", *lines, ""])


def interleaved(
    tasks: Mapping[str, Callable[[int], float]], rounds: int, *, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of each task in each round; those that warm up are not counted."""
    rng = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(-warm_up, rounds):
        # Another order each time: who goes first pays for cold files and caches.
        for name in rng.permutation(list(tasks)).tolist():
            taken = tasks[name](turn)
            if turn >= 0:
                seconds[name].append(taken)
    return seconds


def seconds_of(task: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    task()
    return time.perf_counter() - began


def spread(values: Sequence[float], digits: int) -> str:
    """Median, and quartiles behind it."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.{digits}f} ({low:.{digits}f}..{high:.{digits}f})"


def ratios(seconds: Sequence[float], base: Sequence[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(seconds, base, strict=True)]
