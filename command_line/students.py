"""Commands of what is trained from a cache, and of scores."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from command_line.options import (
    AsJson,
    ConfigPath,
    DataRoot,
    Device,
    Limit,
    OutDir,
    PrintConfig,
    Resume,
    find_device,
    parsed_method,
    printed,
)
from commands.progress import console
from runs.config import load_config
from student_train.registry import known_methods

if TYPE_CHECKING:
    from student_train.config import StudentRun


def train_student(
    config: ConfigPath,
    out: OutDir,
    method: Annotated[
        str | None, typer.Option(help=f"none, or of {known_methods()}; joined with +.")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(help="The teacher's cache: a folder, s3://, gs://, https:// or team:NAME."),
    ] = None,
    label_encoder: Annotated[
        Path | None,
        typer.Option(help="A label_encoder.pt: steps embed boxes, no cached label maps."),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(help="A student.pt of the same network to begin with, not random weights."),
    ] = None,
    data_root: DataRoot = None,
    resume: Resume = False,
    device: Device = "auto",
    print_config: PrintConfig = False,
) -> None:
    """Train a camera, stereo or LiDAR student; writes OUT/student.pt."""
    from runs.checkpoint import load_checkpoint
    from store.reader import open_cache
    from student_train.config import StudentRun
    from student_train.train import train_student

    paths = {"data__root": data_root, "methods__labeldistill__label_encoder": label_encoder}
    run = load_config(config, StudentRun, **paths)
    run = run.model_copy(update={"method": parsed_method(method or run.method)})
    if label_encoder and not _embeds_labels(run):
        raise typer.BadParameter(
            f"--label-encoder {label_encoder}: --method {run.method} embeds no labels with it; "
            'labeldistill does, unless the TOML says where else they are from (labels = "cache")'
        )
    if printed(run, print_config):
        return
    if run.reads_cache != (store is not None):
        raise typer.BadParameter(
            f"--method {run.method} with{'out' if store is None else ''} --store: a method reads "
            'a store, none reads none unless unlabelled = "pseudo_labels"'
        )
    cache = None if store is None else open_cache(store)
    begun = None if start is None else load_checkpoint(start, "student")
    path = train_student(
        run, cache, out, resume=resume, device=find_device(device).type, start=begun
    )
    console.print(f"wrote {path}")


def evaluate(
    checkpoint: Annotated[
        Path, typer.Argument(help="A teacher.pt, student.pt or label_encoder.pt.")
    ],
    out: OutDir,
    split: Annotated[str | None, typer.Option(help="Split, instead of the training one.")] = None,
    data_root: DataRoot = None,
    version: Annotated[str | None, typer.Option(help="Version folder, if another.")] = None,
    pictures: Annotated[int, typer.Option(min=0, help="Frames to draw.")] = 3,
    teacher: Annotated[
        Path | None,
        typer.Option(help="A teacher.pt whose boxes to draw too; a label encoder needs its own."),
    ] = None,
    limit: Limit = None,
    device: Device = "auto",
) -> None:
    """Score a checkpoint as its data set does (nuScenes, KITTI) and draw some frames."""
    from commands import steps
    from commands.tables import evaluation_tables
    from frames.kitti.evaluation import RESULTS_FOLDER
    from runs.checkpoint import load_checkpoint

    detector, beside = steps.load_detectors(
        load_checkpoint(checkpoint),
        None if teacher is None else load_checkpoint(teacher, "teacher"),
        find_device(device),
    )
    if version is not None and detector.data.dataset != "nuscenes":
        raise typer.BadParameter(f"--version {version}: {detector.data.dataset} has no versions")
    changes = {"split": split, "root": data_root, "version": version}
    data = detector.data.model_copy(
        update={key: value for key, value in changes.items() if value is not None}
    )
    result = steps.evaluate(detector, data, out, pictures=pictures, limit=limit, teacher=beside)
    console.print(f"split {data.split} of {data.root}, {result.frames} frames")
    if result.scores is None:
        console.print(f"no labels, so nothing to score; result files in {out / RESULTS_FOLDER}")
    else:
        console.print(*evaluation_tables(checkpoint.stem, result.scores))
    for path in result.pictures:
        console.print(f"picture {path}")


def score_kitti(
    labels: Annotated[Path, typer.Argument(help="KITTI's folder label_2.")],
    results: Annotated[Path, typer.Argument(help="Folder of result files, one a frame.")],
    split_file: Annotated[
        Path | None,
        typer.Option(help="Score this list's frames (ImageSets/val.txt), not all with results."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also loose overlaps, 11 recalls and AOS.")
    ] = False,
    scheme: Annotated[
        str,
        typer.Option(
            "--difficulties",
            help="kitti, argoverse_heights, argoverse_distances, or rescaled, with --focal.",
        ),
    ] = "kitti",
    focal: Annotated[
        float | None, typer.Option(min=1, help="Vertical focal length of the left image, pixels.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score anyone's KITTI result files: AP_3D, AP_BEV and AP_2D at 40 recalls."""
    from commands.kitti import full_tables, leaderboard_table, score_result_files
    from frames.kitti.difficulty import SCHEMES, difficulties
    from frames.kitti.evaluation import by_name

    if scheme not in SCHEMES:
        raise typer.BadParameter(f"--difficulties {scheme!r}: expected {', '.join(SCHEMES)}")
    levels = difficulties(scheme, focal)
    scores = score_result_files(labels, results, split_file, levels, quiet=as_json)
    if as_json:
        typer.echo(json.dumps(by_name(scores), indent=2))
    else:
        console.print(*(full_tables(scores) if everything else [leaderboard_table(scores)]))


def _embeds_labels(run: "StudentRun") -> bool:
    from student_train.methods.labeldistill import LabelDistillConfig

    configs = run.method_configs.values()
    return any(isinstance(c, LabelDistillConfig) and c.source == "ground_truth" for c in configs)
