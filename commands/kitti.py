"""KITTI's scores: of anyone's result files, and for people."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from commands.progress import console
from frames.kitti.difficulty import Difficulty
from frames.kitti.evaluation import frames_to_score, score_files
from frames.kitti.scoring import KittiScores, Metric, Overlap, Setting

NAMES = {
    Metric.AP_3D: "AP_3D",
    Metric.AP_BEV: "AP_BEV",
    Metric.AP_2D: "AP_2D",
    Metric.AOS: "AOS",
}
LEADERBOARD = (Metric.AP_3D, Metric.AP_BEV, Metric.AP_2D)
RECALLS = {"r40": "40 recalls", "r11": "11 recalls"}


def score_result_files(
    labels: Path,
    results: Path,
    split_file: Path | None,
    levels: Sequence[Difficulty],
    *,
    quiet: bool,
) -> KittiScores:
    """Score a folder of result files; unless quiet, say how many frames that is.

    Raises:
        DataError: A frame lacks a file, or one is not KITTI's.
    """
    tokens = frames_to_score(labels, results, split_file)
    if not quiet:
        count = sum(1 for _ in labels.glob("*.txt"))
        source = split_file or "those with a result file"
        console.print(f"{len(tokens)} of {count} labelled frames: {source}", soft_wrap=True)
    return score_files(labels, results, tokens, levels)


def leaderboard_table(scores: KittiScores) -> Table:
    """What the leaderboard and papers say: R40, strict overlaps, a row a class."""
    table = Table("class", title=f"KITTI, 40 recalls, strict overlaps: {_levels(scores)}")
    for metric in LEADERBOARD:
        table.add_column(NAMES[metric], justify="right")
    for kind in _kinds(scores):
        table.add_row(
            kind, *(_cell(scores, kind, metric, Overlap.STRICT, "r40") for metric in LEADERBOARD)
        )
    return table


def comparison_table(rows: Mapping[str, KittiScores], **columns: Mapping[str, str]) -> Table:
    """AP_3D of moderate objects, strict and loose overlaps, a row a model.

    Args:
        rows: Scores by the model's name.
        **columns: Further ones: the model's name to a cell.
    """
    table = Table("model", title="KITTI AP_3D, moderate, 40 recalls: strict / loose overlaps")
    kinds = _kinds(next(iter(rows.values())))
    for name in (*kinds, *(name.replace("_", " ") for name in columns)):
        table.add_column(name, justify="right")
    for model, scores in rows.items():
        cells = []
        for kind in kinds:
            each = [scores[Setting(kind, Metric.AP_3D, "moderate", o)].r40 for o in Overlap]
            cells.append(" / ".join(f"{value:.2f}" for value in each))
        table.add_row(model, *cells, *(column.get(model, "") for column in columns.values()))
    return table


def full_tables(scores: KittiScores) -> list[Table]:
    """Every metric with both sets of overlaps: a table for 40 recalls and one for 11."""
    tables = []
    for recalls, title in RECALLS.items():
        table = Table("class", "metric", title=f"KITTI, {title}: {_levels(scores)}")
        for overlap in Overlap:
            table.add_column(f"{overlap} overlaps", justify="right")
        for kind in _kinds(scores):
            for metric, name in NAMES.items():
                cells = (_cell(scores, kind, metric, overlap, recalls) for overlap in Overlap)
                table.add_row(kind, name, *cells)
            table.add_section()
        tables.append(table)
    return tables


def _cell(scores: KittiScores, kind: str, metric: Metric, overlap: Overlap, recalls: str) -> str:
    """The difficulties' values, as papers write them; empty where there is no score."""
    settings = [Setting(kind, metric, level, overlap) for level in _difficulties(scores)]
    curves = [scores[setting] for setting in settings if setting in scores]
    return " ".join(f"{getattr(curve, recalls):5.2f}" for curve in curves)


def _kinds(scores: KittiScores) -> list[str]:
    return list(dict.fromkeys(setting.kind for setting in scores))


def _levels(scores: KittiScores) -> str:
    return " ".join(_difficulties(scores))


def _difficulties(scores: KittiScores) -> list[str]:
    return list(dict.fromkeys(setting.difficulty for setting in scores))
