"""Tables of ``benchmarks/gains.py``: figures of each arm over seeds, and gains over its base."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.gain_parts import Arm, made_first
from benchmarks.rounds import Report
from commands.tables import METRICS

# Official AP from which on a class counts as found.
FOUND = 0.02
TP_ERRORS = {
    "ATE": "trans_err",
    "ASE": "scale_err",
    "AOE": "orient_err",
    "AVE": "vel_err",
    "AAE": "attr_err",
}
# nuScenes' own, of mAP against each of the five errors.
AP_WEIGHT = 5
Result = dict[str, Any]
Run = tuple[str, int]  # arm or teacher, seed
Figures = dict[str, dict[Run, dict[str, float]]]  # title -> run -> column -> value


def reports(results: Mapping[Run, Result], arms: Mapping[str, Arm]) -> list[Report]:
    """Mean ± standard deviation over seeds and paired differences, for each group of figures."""
    return [
        report
        for title, figures in _figures(results).items()
        if figures
        for report in (_spreads(title, figures, arms), _gains(title, figures, arms))
    ]


def _figures(results: Mapping[Run, Result]) -> Figures:
    scores = {run: result["scores"] for run, result in results.items()}
    figures = _nuscenes(scores) if of_nuscenes(results) else _kitti(scores)
    kept = {
        run: {
            name.removeprefix("mean/xgd/kept/"): value
            for name, value in result["figures"].items()
            if name.startswith("mean/xgd/kept/")
        }
        for run, result in results.items()
    }
    costs = {run: result["costs"] for run, result in results.items() if "costs" in result}
    return figures | {"kept by xgd": {run: row for run, row in kept.items() if row}, "costs": costs}


def of_nuscenes(results: Mapping[Run, Result]) -> bool:
    """Whether these are nuScenes' scores; else they are KITTI's."""
    return all("class_ap" in result["scores"] for result in results.values())


def _kitti(scores: Mapping[Run, Mapping[str, float]]) -> Figures:
    """Moderate AP of each class and their mean."""
    wanted = {
        "AP_3D moderate, strict overlaps, 40 recalls": "3d/moderate/strict/r40",
        "AP_3D moderate, loose overlaps, 40 recalls": "3d/moderate/loose/r40",
        "AP_BEV moderate, strict overlaps, 40 recalls": "bev/moderate/strict/r40",
    }
    figures: Figures = {}
    for title, setting in wanted.items():
        figures[title] = {}
        for run, row in scores.items():
            classes = {
                name.split("/")[0]: value for name, value in row.items() if name.endswith(setting)
            }
            figures[title][run] = classes | {"mean": statistics.mean(classes.values())}
    return figures


def _nuscenes(scores: Mapping[Run, Mapping[str, Any]]) -> Figures:
    """The official metrics, also by distance, and those of each class that every run finds."""
    found = [
        name
        for name in next(iter(scores.values()))["class_ap"]
        if all(row["class_ap"][name] >= FOUND for row in scores.values())
    ]
    official = _official(scores)
    by_distance = {
        f"official metrics, {metres} m": _official(
            {run: row["by_distance"][metres] for run, row in scores.items()}
        )
        for metres in next(iter(scores.values()))["by_distance"]
    }
    each = {
        name: {
            run: {"AP": row["class_ap"][name]}
            | {
                column: row["class_errors"][name][key]
                for column, key in TP_ERRORS.items()
                # The evaluator has no velocity for barriers, no heading for cones.
                if not math.isnan(row["class_errors"][name][key])
            }
            for run, row in scores.items()
        }
        for name in found
    }
    together = {}
    if found:
        title = f"classes that every run finds ({', '.join(found)})"
        together[title] = {run: _together([each[name][run] for name in found]) for run in scores}
    return {"official metrics": official} | by_distance | together | each


def _together(classes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """NDS and what it is made of, as if there were no other classes."""
    means = {
        f"m{name}": statistics.mean(row[name] for row in classes if name in row)
        for name in ("AP", *TP_ERRORS)
        if any(name in row for row in classes)
    }
    good = sum(1 - min(means[f"m{name}"], 1) for name in TP_ERRORS if f"m{name}" in means)
    return {"NDS": (AP_WEIGHT * means["mAP"] + good) / (AP_WEIGHT + len(TP_ERRORS))} | means


def _official(scores: Mapping[Run, Mapping[str, Any]]) -> dict[Run, dict[str, float]]:
    return {run: {name: row[key] for name, key in METRICS.items()} for run, row in scores.items()}


def _spreads(
    title: str, figures: Mapping[Run, Mapping[str, float]], arms: Mapping[str, Arm]
) -> Report:
    columns = _columns(figures)
    rows = []
    for name in (*made_first(arms.values()), *arms):
        runs = [row for (own, _), row in figures.items() if own == name]
        if runs:
            rows.append([name, *(_spread([row[column] for row in runs]) for column in columns)])
    return Report(f"{title}: mean ± standard deviation over seeds", ("arm", *columns), rows)


def _gains(
    title: str, figures: Mapping[Run, Mapping[str, float]], arms: Mapping[str, Arm]
) -> Report:
    columns = _columns(figures)
    rows = [
        [name, *(_gain([ours[c] - theirs[c] for ours, theirs in pairs]) for c in columns)]
        for name, pairs in paired(figures, arms).items()
    ]
    return Report(f"{title}: paired difference to no method, mean (each)", ("arm", *columns), rows)


def paired(
    figures: Mapping[Run, Mapping[str, float]], arms: Mapping[str, Arm]
) -> dict[str, list[tuple[Mapping[str, float], Mapping[str, float]]]]:
    """Of each arm but the bases: its figures and its base's, for every seed that has both."""
    pairs = {
        name: [
            (row, figures[arm.base, seed])
            for (own, seed), row in sorted(figures.items())
            if own == name != arm.base and (arm.base, seed) in figures
        ]
        for name, arm in arms.items()
    }
    return {name: found for name, found in pairs.items() if found}


def _columns(figures: Mapping[Run, Mapping[str, float]]) -> list[str]:
    """Those that every run has."""
    rows = list(figures.values())
    return [name for name in rows[0] if all(name in row for row in rows)] if rows else []


def _spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4g} ± {deviation:.2g}"


def _gain(values: list[float]) -> str:
    each = " ".join(f"{value:+.3g}" for value in values)
    return f"{statistics.mean(values):+.3g}\n({each})"
