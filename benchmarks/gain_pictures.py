"""Pictures of ``benchmarks/gains.py``: gain against bytes, by class and distance, by labels."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.gain_parts import ALL, Arm
from benchmarks.gain_tables import FOUND, Result, Run, paired

DPI = 130
# Paired differences to the base, one for each seed.
Gains = Sequence[float]


def draw_gains(results: Mapping[Run, Result], arms: Mapping[str, Arm], out: Path) -> None:
    """The pictures of a nuScenes part, ``gain_bytes.png`` and ``gain_groups.png`` in ``out``.

    Without an arm whose base is there too, there are none. Arms that see a fraction of the labels
    have a third one, ``gain_labels.png``.
    """
    out.mkdir(parents=True, exist_ok=True)
    draw_over_labels(
        {run: result["scores"]["mean_ap"] for run, result in results.items()},
        arms,
        out / "gain_labels.png",
    )
    scores = [result["scores"]["class_ap"] for result in results.values()]
    classes = [name for name in scores[0] if any(row[name] >= FOUND for row in scores)]
    rows = {run: _ap(result["scores"], classes) for run, result in results.items()}
    gains = {
        name: {c: [ours[c] - theirs[c] for ours, theirs in pairs] for c in pairs[0][0]}
        for name, pairs in paired(rows, arms).items()
    }
    if not gains:
        return
    weights = {
        name: result["costs"]["bytes / frame"]
        for (name, _), result in results.items()
        if "costs" in result
    }
    draw_against_bytes({n: g["all"] for n, g in gains.items()}, weights, out / "gain_bytes.png")
    draw_by_group(gains, out / "gain_groups.png")


def _ap(scores: Mapping[str, Any], classes: Sequence[str]) -> dict[str, float]:
    """mAP, that of each band of distance, and the AP of each of these classes."""
    bands = {f"{metres} m": row["mean_ap"] for metres, row in scores["by_distance"].items()}
    return {"all": scores["mean_ap"]} | bands | {name: scores["class_ap"][name] for name in classes}


def draw_against_bytes(
    gains: Mapping[str, Gains], weights: Mapping[str, float], path: Path
) -> None:
    """Each arm's gain in mAP over what it reads of the cache a frame; bars span the seeds."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = sorted(gains, key=lambda name: statistics.mean(gains[name]))
    # Names stand in a column of their own, in the order of the gains: points lie close together.
    for name, height in zip(names, np.linspace(0.03, 0.97, len(names)), strict=True):
        points, kilobytes = [100 * gain for gain in gains[name]], weights[name] / 1000
        axes.plot([kilobytes] * 2, [min(points), max(points)], color="0.6", lw=2)
        axes.plot(kilobytes, statistics.mean(points), "o", color="C0")
        axes.annotate(
            name,
            (kilobytes, statistics.mean(points)),
            (1.03, height),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            arrowprops={"arrowstyle": "-", "color": "0.8", "lw": 0.6, "relpos": (0, 0.5)},
        )
    axes.axhline(0, color="0.3", lw=0.8)
    axes.set_xscale("symlog", linthresh=1)  # what reads nothing lies at 0
    end = 2 * max(weights.values()) / 1000
    axes.set(xlim=(-0.2, end), xlabel="cache, kB a frame", ylabel="mAP over no method, points")
    figure.savefig(path, dpi=DPI)


def draw_by_group(gains: Mapping[str, Mapping[str, Gains]], path: Path) -> None:
    """A row of mean gains in points of AP for each arm, a column for each class or distance."""
    columns = list(next(iter(gains.values())))
    means = np.array([[100 * statistics.mean(row[c]) for c in columns] for row in gains.values()])
    size = (2 + 0.75 * len(columns), 1.5 + 0.4 * len(gains))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    largest = float(np.abs(means).max()) or 1.0
    axes.imshow(means, cmap="RdBu", vmin=-largest, vmax=largest, aspect="auto")
    for (row, column), mean in np.ndenumerate(means):
        axes.text(column, row, f"{mean:+.1f}", ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(gains)), list(gains), fontsize=8)
    axes.set_title("AP over no method, points", fontsize=9)
    figure.savefig(path, dpi=DPI)


def draw_over_labels(scores: Mapping[Run, float], arms: Mapping[str, Arm], path: Path) -> None:
    """Plot mAP over the fraction of labelled frames; nothing where all see all labels."""
    lines = over_labels(scores, arms)
    if not lines:
        return
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, line in lines.items():
        each = [[100 * score for score in line[percent]] for percent in line]
        means = [statistics.mean(points) for points in each]
        below = [mean - min(points) for mean, points in zip(means, each, strict=True)]
        above = [max(points) - mean for mean, points in zip(means, each, strict=True)]
        axes.errorbar(
            list(line), means, np.array([below, above]), marker="o", capsize=3, label=name
        )
    ticks = sorted({percent for line in lines.values() for percent in line})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick} %" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="frames whose labels the student sees", ylabel="mAP, points")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=DPI)


def over_labels(
    scores: Mapping[Run, float], arms: Mapping[str, Arm]
) -> dict[str, dict[int, list[float]]]:
    """Scores by percent of labelled frames, ascending, for each way to use the others.

    With all labels there are no others: an arm that sees all is a point of each of its method's
    lines.
    """
    own = [(arms[name], score) for (name, _), score in scores.items() if name in arms]
    ways = {_way(arm): arm.method for arm, _ in own if arm.labelled < ALL}
    lines: dict[str, dict[int, list[float]]] = {way: {} for way in ways}
    for arm, score in sorted(own, key=lambda pair: pair[0].labelled):
        for way, method in ways.items():
            if _way(arm) == way or (arm.labelled == ALL and arm.method == method):
                lines[way].setdefault(arm.labelled, []).append(score)
    return lines


def _way(arm: Arm) -> str:
    """What arms of different fractions have in common."""
    others = {
        "distil": "",
        "leave_out": ", labelled frames alone",
        "pseudo_labels": ", pseudo labels",
    }
    taught = arm.store is not None and arm.teacher_labelled == ALL > arm.labelled
    return f"{arm.method}{others[arm.unlabelled]}{', teacher of all labels' if taught else ''}"
