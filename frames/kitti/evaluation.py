"""KITTI's scores of detections, and of anyone's result files.

What is scored is what the result files say, so scoring the files again gives the same numbers.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from frames.detections import Detections
from frames.errors import DataError
from frames.kitti.difficulty import KITTI_DIFFICULTIES, Difficulty
from frames.kitti.labels import read_objects
from frames.kitti.reader import KittiFrame, listed_tokens
from frames.kitti.results import write_results
from frames.kitti.scoring import (
    KittiDetections,
    KittiScores,
    as_detections,
    as_labels,
    score_kitti,
)

RESULTS_FOLDER, METRICS_FILE = "kitti_results", "metrics.json"


def score_frames(
    frames: Sequence[KittiFrame],
    detections: Mapping[str, Detections],
    classes: tuple[str, ...],
    out_dir: Path,
    difficulties: Sequence[Difficulty] = KITTI_DIFFICULTIES,
) -> KittiScores | None:
    """Write a result file for each frame and, where the frames have labels, score these files.

    Writes ``kitti_results/<token>.txt`` in place of those of an earlier evaluation, and
    ``metrics.json`` (``by_name``) where there are labels. All labels take part, not only the
    ground truth that training reads.

    Args:
        frames: Frames to score, of one folder of the tree.
        detections: Token -> detections of that frame, pseudo-LiDAR.
        classes: What the detector detects, names that its labels index; others get no score.
        out_dir: Made if need be.
        difficulties: Which labels count; KITTI's own by default.

    Returns:
        A curve for every setting; None for frames without labels, those of ``testing``.

    Raises:
        ValueError: A detection is not finite.
    """
    folder, metrics = out_dir / RESULTS_FOLDER, out_dir / METRICS_FILE
    for stale in [*folder.glob("*.txt"), metrics]:
        stale.unlink(missing_ok=True)
    write_results(folder, frames, detections, classes)
    if not all(frame.labelled for frame in frames):
        return None
    labels = {frame.token: as_labels(frame.objects) for frame in frames}
    curves = score_kitti(labels, _read_results(folder, labels), difficulties)
    scores = {setting: curve for setting, curve in curves.items() if setting.kind in classes}
    metrics.write_text(json.dumps(by_name(scores), indent=2))
    return scores


def by_name(scores: KittiScores) -> dict[str, float]:
    """Every score under a name that stays, in percent: ``Car/3d/moderate/strict/r40``."""
    return {
        f"{'/'.join(setting)}/{recalls}": value
        for setting, curve in scores.items()
        for recalls, value in (("r40", curve.r40), ("r11", curve.r11))
    }


def frames_to_score(labels: Path, results: Path, split_file: Path | None = None) -> list[str]:
    """Tokens of the frames to score: those that a list names, else those with a result file.

    Args:
        labels: Folder of label files, KITTI's ``label_2``.
        results: Folder of result files; an empty one says that nothing was found.
        split_file: A list of ``ImageSets``, a token a line.

    Raises:
        DataError: There is no such frame, one lacks its label or result file, or is listed twice.
    """
    found = sorted(path.stem for path in results.glob("*.txt"))
    if split_file is None:
        tokens, source = found, f"{results}"
    else:
        tokens, source = listed_tokens(split_file), f"{split_file}"
    if not tokens:
        raise DataError(
            f"{source} has no frames to score: expected a file <frame>.txt for each in the folder "
            "of results, and a frame a line in a list; give the folder that holds the files itself"
        )
    _check_there(tokens, results, "result", "write an empty one where nothing was found")
    _check_there(tokens, labels, "label", "give KITTI's label_2 folder, and results of its frames")
    return tokens


def score_files(
    labels: Path,
    results: Path,
    tokens: Iterable[str],
    levels: Sequence[Difficulty] = KITTI_DIFFICULTIES,
) -> KittiScores:
    """Scores of result files, whoever wrote them.

    Args:
        labels: Folder of label files.
        results: Folder of result files.
        tokens: Frames to score; see ``frames_to_score``.
        levels: Which labels count; KITTI's own by default.

    Raises:
        DataError: A file is missing or not KITTI's, or a detection has no score.
    """
    truth = {token: as_labels(read_objects(labels / f"{token}.txt")) for token in tokens}
    return score_kitti(truth, _read_results(results, truth), levels)


def _read_results(folder: Path, tokens: Iterable[str]) -> dict[str, KittiDetections]:
    return {token: _read_result(folder / f"{token}.txt") for token in tokens}


def _read_result(path: Path) -> KittiDetections:
    try:
        return as_detections(read_objects(path))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _check_there(tokens: Sequence[str], folder: Path, kind: str, remedy: str) -> None:
    missing = [token for token in tokens if not (folder / f"{token}.txt").is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(tokens)} frames have no {kind} file in {folder} "
            f"({', '.join(missing[:3])}); {remedy}"
        )
