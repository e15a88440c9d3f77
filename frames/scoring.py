"""nuScenes' own detection metrics: ``DetectionEval`` of nuscenes-devkit, unmodified."""

import contextlib
import copy
import io
import json
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.detection.evaluate import DetectionEval
from nuscenes.nuscenes import NuScenes
from nuscenes.utils.splits import is_predefined_split

from frames.boxes import CENTRE, SIZE, VELOCITY, YAW
from frames.detection_classes import DETECTION_CLASSES
from frames.detections import Detections
from frames.errors import DataError
from frames.frame import Frame
from frames.geometry import SE3
from frames.nuscenes import NuScenesConfig, open_tables, samples_of_split

RESULTS_FILE = "results_nusc.json"
EVALUATION = "detection_cvpr_2019"
MOVING_SPEED = 0.2
# (moving, standing) attribute of each class; mmdet3d's nuscenes_dataset.py, BEVDepth the same.
_VEHICLE = ("vehicle.moving", "vehicle.parked")
_CYCLE = ("cycle.with_rider", "cycle.without_rider")
ATTRIBUTES = {
    "car": _VEHICLE,
    "truck": _VEHICLE,
    "construction_vehicle": _VEHICLE,
    "bus": ("vehicle.moving", "vehicle.stopped"),
    "trailer": _VEHICLE,
    "barrier": ("", ""),
    "motorcycle": _CYCLE,
    "bicycle": _CYCLE,
    "pedestrian": ("pedestrian.moving", "pedestrian.standing"),
    "traffic_cone": ("", ""),
}
INPUTS = ("camera", "lidar", "radar", "map", "external")

Record = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The official numbers of one evaluation; a class without ground truth counts as AP 0.

    Attributes:
        nds: nuScenes detection score, in [0, 1].
        mean_ap: Over classes and the distances 0.5, 1, 2, 4 m, in [0, 1].
        mate: Mean translation error, metres.
        mase: Mean scale error, 1 - IoU of aligned boxes.
        maoe: Mean orientation error, radians.
        mave: Mean velocity error, m/s.
        maae: Mean attribute error, 1 - accuracy.
        class_ap: AP of each class, mean over the four distances.
        class_errors: Class -> error name (``trans_err``, ...) -> value; NaN where the metric does
            not apply to the class, 1 where nothing was found.
        by_distance: The same numbers of boxes whose centre is so far from the ego vehicle ("0-20",
            metres), where they were asked for.
    """

    nds: float
    mean_ap: float
    mate: float
    mase: float
    maoe: float
    mave: float
    maae: float
    class_ap: dict[str, float]
    class_errors: dict[str, dict[str, float]]
    by_distance: dict[str, "Scores"] = field(default_factory=dict)


def score_nuscenes(
    config: NuScenesConfig,
    frames: Sequence[Frame],
    detections: Mapping[str, Detections],
    out_dir: Path,
    *,
    inputs: Collection[str],
    distances: Sequence[float] = (),
) -> Scores:
    """Score detections with the official evaluator on exactly these frames.

    Writes the official ``results_nusc.json`` (submittable where ``frames`` is the whole split:
    other frames of the split are listed there without boxes), ``metrics_summary.json`` and
    ``metrics_details.json``. Ground truth is what the evaluator itself reads from the tables; where
    ``frames`` is a part of the split, what it has loaded and filtered is cut to that part before
    it matches anything.

    Args:
        config: The split the frames were read from.
        frames: Frames to score.
        detections: Token -> detections of that frame; of more than 500 the best 500 count.
        out_dir: Folder for the files, made if need be.
        inputs: What the detector looks at, of ``INPUTS``; the results file declares it.
        distances: Borders between which boxes are scored again by themselves, metres, ascending.
            A detection counts where its own centre lies: one beyond the border of the object it
            means is a false one there.

    Raises:
        DataError: A frame is not of the split or has no detections entry, or no frame has ground
            truth.
        ValueError: A detection is not finite.
    """
    tables = open_tables(config)
    split_tokens = [sample["token"] for sample in samples_of_split(tables, config.split)]
    _check(frames, detections, split_tokens)
    results: dict[str, list[Record]] = {token: [] for token in split_tokens}
    for frame in frames:
        results[frame.token] = _official_boxes(frame, detections[frame.token])
    if not any(results.values()):
        results[frames[0].token] = [_beyond_every_range(frames[0])]
    out_dir.mkdir(parents=True, exist_ok=True)
    path = out_dir / RESULTS_FILE
    meta = {f"use_{name}": name in inputs for name in INPUTS}
    path.write_text(json.dumps({"meta": meta, "results": results}))
    with _quiet(), _evaluator_tables(tables, config.split) as own_tables:
        evaluator = DetectionEval(
            own_tables,
            config_factory(EVALUATION),
            str(path),
            config.split,
            str(out_dir),
            verbose=False,
        )
        if len(frames) < len(split_tokens):
            _cut(evaluator, [frame.token for frame in frames])
        scores = _scores(evaluator.main(plot_examples=0, render_curves=False))
        return replace(scores, by_distance=_by_distance(evaluator, distances))


def _check(
    frames: Sequence[Frame], detections: Mapping[str, Detections], split_tokens: list[str]
) -> None:
    tokens = [frame.token for frame in frames]
    strangers = sorted(set(tokens) - set(split_tokens))
    if strangers:
        raise DataError(
            f"{len(strangers)} of {len(tokens)} frames to score are not of the split "
            f"({strangers[:3]}); score with the config that read the frames"
        )
    silent = sorted(set(tokens) - set(detections))
    if silent:
        raise DataError(
            f"{len(silent)} of {len(tokens)} frames have no detections ({silent[:3]}); "
            "give Detections.empty() where nothing was found"
        )
    if not any(len(frame.boxes) for frame in frames):
        raise DataError(
            f"there is no ground truth in these {len(tokens)} frames, so they cannot be scored "
            "here; read frames with annotations (a test split goes to the official server)"
        )


def _official_boxes(frame: Frame, detections: Detections) -> list[Record]:
    """The best detections as records of the results file: global frame, w l h."""
    best = detections.scores.argsort(descending=True)[
        : config_factory(EVALUATION).max_boxes_per_sample
    ]
    boxes = detections.boxes[best].double().numpy()
    scores = detections.scores[best].tolist()
    labels = detections.labels[best].tolist()
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise ValueError(f"frame {frame.token}: detections are not finite; the detector diverged")
    pose = frame.global_from_ego
    velocity = np.pad(boxes[:, VELOCITY], ((0, 0), (0, 1))) @ pose.rotation.T
    columns = zip(
        labels,
        scores,
        pose.apply(boxes[:, CENTRE]).tolist(),
        boxes[:, SIZE][:, [1, 0, 2]].tolist(),
        _turned(pose, boxes[:, YAW]).tolist(),
        velocity[:, :2].tolist(),
        (np.hypot(boxes[:, 7], boxes[:, 8]) <= MOVING_SPEED).tolist(),
        strict=True,
    )
    return [
        {
            "sample_token": frame.token,
            "translation": translation,
            "size": size,
            "rotation": rotation,
            "velocity": speed,
            "detection_name": DETECTION_CLASSES[label],
            "detection_score": score,
            "attribute_name": ATTRIBUTES[DETECTION_CLASSES[label]][stands],
        }
        for label, score, translation, size, rotation, speed, stands in columns
    ]


def _turned(pose: SE3, yaw: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, "n 4"]:
    """Quaternions (w, x, y, z) of the pose times a turn about its own z."""
    w, x, y, z = pose.quaternion
    cos, sin = np.cos(yaw / 2), np.sin(yaw / 2)
    return np.stack(
        [w * cos - z * sin, x * cos + y * sin, y * cos - x * sin, z * cos + w * sin], axis=1
    )


def _beyond_every_range(frame: Frame) -> Record:
    """A box the evaluator's own distance filter drops: it refuses a file with no box at all."""
    far = Detections(
        torch.tensor([[1e4, 0, 0, 1, 1, 1, 0, 0, 0]]), torch.tensor([0]), torch.tensor([0.0])
    )
    return _official_boxes(frame, far)[0]


@contextlib.contextmanager
def _evaluator_tables(tables: NuScenes, split: str) -> Iterator[NuScenes]:
    """Tables whose ``splits.json`` knows the split, also where it is only a scene's name.

    The evaluator reads nothing but that file from the data root, so a shallow copy of the tables
    that looks for it in a temporary folder will do; the data root may be read-only.
    """
    if is_predefined_split(split):
        yield tables
        return
    scenes = {
        tables.get("scene", sample["scene_token"])["name"]
        for sample in samples_of_split(tables, split)
    }
    with tempfile.TemporaryDirectory() as folder:
        splits_file = Path(folder) / tables.version / "splits.json"
        splits_file.parent.mkdir()
        splits_file.write_text(json.dumps({split: sorted(scenes)}))
        moved = copy.copy(tables)
        moved.dataroot = folder
        yield moved


def _cut(evaluator: DetectionEval, tokens: list[str]) -> None:
    """Leave only these frames in what the evaluator has loaded and filtered."""
    for name in ("gt_boxes", "pred_boxes"):
        kept = EvalBoxes()
        for token in tokens:
            kept.add_boxes(token, getattr(evaluator, name)[token])
        setattr(evaluator, name, kept)
    evaluator.sample_tokens = tokens


def _by_distance(evaluator: DetectionEval, distances: Sequence[float]) -> dict[str, Scores]:
    """Scores between neighbouring borders."""
    every = evaluator.gt_boxes, evaluator.pred_boxes
    scores = {}
    for near, far in pairwise(distances):
        evaluator.gt_boxes, evaluator.pred_boxes = (_between(boxes, near, far) for boxes in every)
        metrics, _ = evaluator.evaluate()
        scores[f"{near:g}-{far:g}"] = _scores(metrics.serialize())
    evaluator.gt_boxes, evaluator.pred_boxes = every
    return scores


def _between(boxes: EvalBoxes, near: float, far: float) -> EvalBoxes:
    kept = EvalBoxes()
    for token in boxes.sample_tokens:
        kept.add_boxes(token, [box for box in boxes[token] if near <= box.ego_dist < far])
    return kept


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Swallow the devkit's prints and progress bars."""
    sink = io.StringIO()
    with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        yield


def _scores(summary: Record) -> Scores:
    errors = summary["tp_errors"]
    return Scores(
        nds=summary["nd_score"],
        mean_ap=summary["mean_ap"],
        mate=errors["trans_err"],
        mase=errors["scale_err"],
        maoe=errors["orient_err"],
        mave=errors["vel_err"],
        maae=errors["attr_err"],
        class_ap=dict(summary["mean_dist_aps"]),
        class_errors={name: dict(values) for name, values in summary["label_tp_errors"].items()},
    )
