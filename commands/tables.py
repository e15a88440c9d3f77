"""Scores, for people."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.table import Table

from commands.kitti import comparison_table, leaderboard_table
from frames.kitti.evaluation import by_name
from frames.kitti.scoring import KittiScores
from frames.scoring import Scores

METRICS = {
    "NDS": "nds",
    "mAP": "mean_ap",
    "mATE": "mate",
    "mASE": "mase",
    "mAOE": "maoe",
    "mAVE": "mave",
}


def evaluation_tables(model: str, scores: Scores | KittiScores) -> list[Table]:
    """What one model scored, in the form of its data set."""
    if isinstance(scores, Scores):
        near_and_far = {f"{metres} m": part for metres, part in scores.by_distance.items()}
        return [scores_table({model: scores} | near_and_far), class_table(scores)]
    return [leaderboard_table(scores)]


def scores_table(rows: Mapping[str, Scores], **columns: Mapping[str, str]) -> Table:
    """Official metrics, a row a model; further columns map the row's name to a cell."""
    table = Table(title="nuScenes detection metrics (official evaluator)")
    table.add_column("model")
    names = [*METRICS, *(name.replace("_", " ") for name in columns)]
    for name in names:
        table.add_column(name, justify="right")
    for model, scores in rows.items():
        values = [f"{getattr(scores, attribute):.3f}" for attribute in METRICS.values()]
        table.add_row(model, *values, *(cells.get(model, "") for cells in columns.values()))
    return table


def models_table(rows: Mapping[str, Scores | KittiScores], **columns: Mapping[str, str]) -> Table:
    """What several models of one data set scored, a row each; columns as for ``scores_table``."""
    nuscenes = {model: scores for model, scores in rows.items() if isinstance(scores, Scores)}
    if nuscenes:
        return scores_table(nuscenes, **columns)
    kitti = {model: scores for model, scores in rows.items() if not isinstance(scores, Scores)}
    return comparison_table(kitti, **columns)


def plain_scores(scores: Scores | KittiScores) -> dict[str, Any]:
    """The same for a JSON file."""
    return asdict(scores) if isinstance(scores, Scores) else by_name(scores)


def class_table(scores: Scores) -> Table:
    """AP of each class."""
    table = Table(title="AP by class")
    table.add_column("class")
    table.add_column("AP", justify="right")
    for name, value in scores.class_ap.items():
        table.add_row(name, f"{value:.3f}")
    return table
