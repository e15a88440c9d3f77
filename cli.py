"""Command line: a world, a teacher, its cache, students, official scores.

What a command needs is imported in its body, so that the others start fast.
"""

import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.traceback import install as pretty_tracebacks

from commands.progress import announce_room, console
from frames.errors import DataError
from runs.config import load_config
from runs.errors import CheckpointError, ConfigError, RunInterruptedError
from store.choices import MAX_VIEWS, Coverage, Encoding
from store.errors import CacheError, printable
from student_train.registry import known_methods, parse_methods
from teacher_dump.defaults import OWN_TEACHER, TOLERANCE
from teacher_dump.errors import ScaleOutError, TeacherError

if TYPE_CHECKING:
    import torch

    from commands.workers import Workers
    from student_train.config import StudentRun
    from teacher_dump.protocol import Teacher

# What a user can cause: one line on the console, exit code 1. Anything else is our fault.
USER_ERRORS = (
    *(CacheError, CheckpointError, ConfigError, DataError, ScaleOutError, TeacherError),
    *(FloatingPointError, ModuleNotFoundError, OSError),
)
INTERRUPTED = 130

app = typer.Typer(
    no_args_is_help=True,
    help="Run a teacher once, share its cache, train students from it.",
    pretty_exceptions_enable=False,
)

ConfigPath = Annotated[Path, typer.Argument(help="The run's TOML.")]


def _folder(out: Path) -> Path:
    if re.match(r"[a-z0-9]+:/|team:", str(out)):
        raise typer.BadParameter(f"expected a folder, found {out}; bevcache copy takes it to a URL")
    return out


OutDir = Annotated[Path, typer.Option(callback=_folder, help="Folder for the result.")]
DataRoot = Annotated[Path | None, typer.Option(help="Data set folder, instead of the TOML's.")]
Resume = Annotated[bool, typer.Option(help="Continue an interrupted run.")]
PrintConfig = Annotated[bool, typer.Option(help="Print the resolved config and stop.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
StorePlace = Annotated[str, typer.Argument(help="A cache: folder, URL or team:NAME.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
Weights = Annotated[Path | None, typer.Option(help="The teacher's weights.")]
Factory = Annotated[str, typer.Option(help="package.module:factory of your own teacher.")]
LabelEncoderPath = Annotated[
    Path | None, typer.Option(help="A label_encoder.pt: its maps of the boxes are targets too.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many frames.")]


@app.command()
def demo(
    out: OutDir = Path("demo_out"),
    configs: Annotated[Path, typer.Option(help="Folder of the demo's TOMLs.")] = Path("configs"),
    data: Annotated[str, typer.Option(help="nuscenes (many cameras) or kitti (stereo).")] = (
        "nuscenes"
    ),
    methods: Annotated[
        str, typer.Option(help="Students to train, comma-separated; else none and one method.")
    ] = "",
) -> None:
    """The whole idea in minutes: world, teacher, cache, students with and without it, scores."""
    from commands.demo import DEMOS, run_demo

    if data not in DEMOS:
        raise typer.BadParameter(f"--data {data!r}: expected {' or '.join(DEMOS)}")
    run_demo(configs, out, data, methods.split(",") if methods else ())


@app.command()
def make_world(
    config: ConfigPath,
    out: OutDir,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    print_config: PrintConfig = False,
) -> None:
    """Write a procedural world as a genuine nuScenes or KITTI tree."""
    from commands import world

    wanted = world.load_world(config)
    if not _printed(wanted, print_config):
        world.make_world(wanted, out, workers)


@app.command("train-teacher")
def train_teacher_command(
    config: ConfigPath,
    out: OutDir,
    kind: Annotated[
        str | None, typer.Option(help="lidar, camera or fusion: what the TOML must be of.")
    ] = None,
    data_root: DataRoot = None,
    resume: Resume = False,
    device: Device = "auto",
    print_config: PrintConfig = False,
) -> None:
    """Train a LiDAR, camera or fusion teacher; writes OUT/teacher.pt."""
    from teacher_dump.config import TeacherRun
    from teacher_dump.train import train_teacher

    run = load_config(config, TeacherRun, data__root=data_root)
    if kind not in (None, run.kind):
        raise typer.BadParameter(f"--kind {kind}: {config} is of a {run.kind} teacher")
    if not _printed(run, print_config):
        path = train_teacher(run, out, resume=resume, device=_device(device).type)
        console.print(f"wrote {path}")


@app.command("train-label-encoder")
def train_label_encoder_command(
    config: ConfigPath,
    out: OutDir,
    checkpoint: Annotated[Path, typer.Option(help="The teacher.pt whose head to invert.")],
    data_root: DataRoot = None,
    resume: Resume = False,
    device: Device = "auto",
    print_config: PrintConfig = False,
) -> None:
    """Train LabelDistill's label encoder on boxes alone; writes OUT/label_encoder.pt."""
    from teacher_dump.label_config import LabelEncoderRun
    from teacher_dump.train_labels import train_label_encoder

    run = load_config(config, LabelEncoderRun, data__root=data_root)
    if not _printed(run, print_config):
        path = train_label_encoder(run, checkpoint, out, resume=resume, device=_device(device).type)
        console.print(f"wrote {path}")


@app.command("dump-teacher")
def dump_teacher(
    config: ConfigPath,
    out: OutDir,
    checkpoint: Weights = None,
    teacher: Factory = OWN_TEACHER,
    label_encoder: LabelEncoderPath = None,
    methods: Annotated[
        str,
        typer.Option(
            help="Store what these read, joined with a comma; else all this teacher serves."
        ),
    ] = "",
    coverage: Annotated[
        Coverage, typer.Option(help="foreground: what losses read; dense: whole maps.")
    ] = Coverage.FOREGROUND,
    views: Annotated[
        int,
        typer.Option(
            min=1, max=MAX_VIEWS, help="Drawn BEV augmentations of each frame; 1: as it is."
        ),
    ] = 1,
    encoding: Annotated[
        Encoding | None,
        typer.Option(help="Of features, not logits; uint8, float8, bfloat16 are lossy in a bound."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows the teacher sees at once.")] = 4,
    data_root: DataRoot = None,
    limit: Limit = None,
    resume: Resume = False,
    dry_run: Annotated[bool, typer.Option(help="Print the plan and stop.")] = False,
    device: Device = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Dump in so many processes of this machine.")
    ] = None,
    scheduler: Annotated[
        str, typer.Option(help="Dump on a running Dask cluster: tcp://HOST:PORT.")
    ] = "",
) -> None:
    """Run a teacher once over the data of a STUDENT's TOML and write its cache to OUT."""
    import torch

    from commands import steps
    from student_train.config import StudentRun

    run = load_config(config, StudentRun, data__root=data_root)
    names = [name.strip() for name in methods.split(",")] if methods else []
    if "none" in names:
        raise typer.BadParameter("--methods none: it reads nothing of a teacher; name others")
    named = _method("+".join(names)) if names else ""
    elsewhere = _workers(workers, scheduler, teacher, checkpoint, label_encoder, device)
    here = torch.device("cpu") if elsewhere else _device(device)
    model = _teacher(teacher, checkpoint, label_encoder, here)
    run = run.model_copy(update={"method": named or "+".join(steps.methods_served(model, run))})
    planned = steps.plan_teacher_dump(
        model, run, coverage=coverage, views=views, encoding=encoding, limit=limit
    )
    if dry_run:
        announce_room(out, planned.plan.total)
        steps.announce_time(model, planned, batch_size, range(len(planned.plan.rows)))
    else:
        steps.dump_teacher(
            model, planned, out, batch_size=batch_size, resume=resume, workers=elsewhere
        )


@app.command("paper-plans")
def paper_plans_command() -> None:
    """What the losses of the five papers read, at the papers' own sizes (Markdown)."""
    from commands.plans import paper_plans

    typer.echo(paper_plans())


@app.command("train-student")
def train_student_command(
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
    data_root: DataRoot = None,
    resume: Resume = False,
    device: Device = "auto",
    print_config: PrintConfig = False,
) -> None:
    """Train a camera, stereo or LiDAR student; writes OUT/student.pt."""
    from store.reader import open_cache
    from student_train.config import StudentRun
    from student_train.train import train_student

    paths = {"data__root": data_root, "methods__labeldistill__label_encoder": label_encoder}
    run = load_config(config, StudentRun, **paths)
    run = run.model_copy(update={"method": _method(method or run.method)})
    if label_encoder and not _embeds_labels(run):
        raise typer.BadParameter(
            f"--label-encoder {label_encoder}: --method {run.method} embeds no labels with it; "
            'labeldistill does, unless the TOML says where else they are from (labels = "cache")'
        )
    if _printed(run, print_config):
        return
    if run.reads_cache != (store is not None):
        raise typer.BadParameter(
            f"--method {run.method} with{'out' if store is None else ''} --store: a method reads "
            'a store, none reads none unless unlabelled = "pseudo_labels"'
        )
    cache = None if store is None else open_cache(store)
    path = train_student(run, cache, out, resume=resume, device=_device(device).type)
    console.print(f"wrote {path}")


@app.command()
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
        _device(device),
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


@app.command("score-kitti")
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


@app.command()
def verify(store: StorePlace) -> None:
    """Read every byte of a cache and hold it against the manifest; exit code 1 on any fault."""
    from commands import sharing

    faults = sharing.verify_store(store)
    for fault in faults:
        console.print(f"damaged: {printable(fault)}", soft_wrap=True)
    if faults:
        raise typer.Exit(1)


@app.command()
def recheck(
    config: ConfigPath,
    store: StorePlace,
    checkpoint: Weights = None,
    teacher: Factory = OWN_TEACHER,
    label_encoder: LabelEncoderPath = None,
    rows: Annotated[int, typer.Option(min=1, help="So many random rows.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice and the draws.")] = 0,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Beside each array's max_error: other hardware's share.")
    ] = TOLERANCE,
    carry_over: Annotated[
        int, typer.Option(min=0, help="Instead: the error of carrying over to so many draws a row.")
    ] = 0,
    as_json: AsJson = False,
    data_root: DataRoot = None,
    device: Device = "auto",
) -> None:
    """Run the teacher again on rows of its cache; exit code 1 if one is not what is stored."""
    from commands import recheck as rechecking
    from store.reader import open_cache
    from student_train.config import StudentRun

    run = load_config(config, StudentRun, data__root=data_root)
    model = _teacher(teacher, checkpoint, label_encoder, _device(device))
    cache = open_cache(store)
    drawn = rechecking.rows_to_recheck(model, run, cache, rows, seed)
    if carry_over:
        shown = rechecking.augmented(run, cache, drawn, carry_over, seed)
        errors = rechecking.recheck_carry_over(model, cache, shown, quiet=as_json)
        facts = [asdict(error) for error in errors]
        _print_facts(facts, rechecking.carry_table(errors), as_json=as_json)
        return
    checks = rechecking.recheck_store(model, cache, drawn, tolerance, quiet=as_json)
    facts = [asdict(check) | {"passed": check.passed} for check in checks]
    _print_facts(facts, rechecking.checks_table(checks), as_json=as_json)
    if not all(check.passed for check in checks):
        raise typer.Exit(1)


@app.command()
def copy(
    source: StorePlace,
    destination: Annotated[str, typer.Argument(help="Folder, s3://, gs:// or az://.")],
) -> None:
    """Copy a cache; run again after an interruption, what has arrived is kept."""
    from commands import sharing

    sharing.copy(source, destination)


@app.command()
def merge(
    stores: Annotated[list[str], typer.Argument(help="Two or more caches, then a new folder.")],
) -> None:
    """Make one cache of several: of other frames, or of other targets of the same frames."""
    from commands import sharing

    *sources, out = stores
    if len(sources) < 2:
        raise typer.BadParameter("expected at least two caches, then a new folder")
    sharing.merge(sources, out)


@app.command()
def info(
    path: Annotated[str, typer.Argument(help="A cache, as for verify, or a checkpoint.")],
    as_json: AsJson = False,
) -> None:
    """Say what a cache or a checkpoint holds."""
    from commands.info import describe, tables

    facts = describe(path)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        console.print(tables(facts))


names = typer.Typer(
    no_args_is_help=True,
    help="A team's names for its caches, in the file that BEVCACHE_CATALOGUE names (path or URL).",
)
app.add_typer(names, name="catalogue")
StoreName = Annotated[str, typer.Argument(help="As in team:NAME.")]


@names.command("list")
def catalogue_list(as_json: AsJson = False) -> None:
    """Show what is listed."""
    from commands import catalogue

    if as_json:
        typer.echo(json.dumps(catalogue.list_stores(), indent=2))
    else:
        console.print(catalogue.catalogue_table())


@names.command("add")
def catalogue_add(
    name: StoreName,
    store: StorePlace,
    description: Annotated[str, typer.Option(help="For your colleagues, one line.")],
    licence: Annotated[str, typer.Option(help="Under which terms it may be used, one line.")],
    replace: Annotated[bool, typer.Option("--replace", help="Though the name is taken.")] = False,
) -> None:
    """List a cache under a name."""
    from commands import catalogue

    catalogue.add_store(name, store, description=description, licence=licence, replace=replace)


@names.command("remove")
def catalogue_remove(name: StoreName) -> None:
    """Take a name out; the cache itself stays where it is."""
    from commands import catalogue

    catalogue.remove_store(name)


def main() -> None:
    """Run the command line; a user's error is one clear message and exit code 1."""
    pretty_tracebacks(console=console, show_locals=False)
    try:
        app(standalone_mode=True)
    except USER_ERRORS as error:
        errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        errors.print(f"error: {printable(str(error), keep=chr(10))}")
        sys.exit(1)
    except RunInterruptedError as interruption:
        console.print(str(interruption))
        sys.exit(INTERRUPTED)


def _print_facts(facts: list[dict[str, Any]], table: Table, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        console.print(table)


def _printed(config: BaseModel, wanted: bool) -> bool:
    if wanted:
        typer.echo(config.model_dump_json(indent=2))
    return wanted


def _embeds_labels(run: "StudentRun") -> bool:
    from student_train.methods.labeldistill import LabelDistillConfig

    configs = run.method_configs.values()
    return any(isinstance(c, LabelDistillConfig) and c.source == "ground_truth" for c in configs)


def _method(text: str) -> str:
    try:
        parse_methods(text)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None
    return text


def _teacher(
    factory: str, checkpoint: Path | None, label_encoder: Path | None, device: "torch.device"
) -> "Teacher":
    """The teacher, with its label encoder where one is given."""
    from teacher_dump.label_teacher import LabelledTeacher
    from teacher_dump.protocol import load_teacher

    model = load_teacher(factory, checkpoint, device)
    return model if label_encoder is None else LabelledTeacher(model, label_encoder, device)


def _workers(
    local: int | None,
    scheduler: str,
    factory: str,
    checkpoint: Path | None,
    label_encoder: Path | None,
    device: str,
) -> "Workers | None":
    """Who dumps instead of this process, if anyone is asked for.

    Raises:
        typer.BadParameter: Both kinds of workers are asked for, or no address.
    """
    from commands.workers import Workers

    if local and scheduler:
        raise typer.BadParameter("--workers and --scheduler: expected one of them")
    if scheduler and "://" not in scheduler:
        raise typer.BadParameter(f"--scheduler {scheduler!r}: expected tcp://HOST:PORT")
    if not (local or scheduler):
        return None
    # A cluster's machines may have GPUs where this one has none.
    kind = device if scheduler else _device(device).type
    return Workers(
        local=local,
        scheduler=scheduler,
        factory=factory,
        checkpoint=checkpoint,
        label_encoder=label_encoder,
        device=kind,
    )


def _device(name: str) -> "torch.device":
    """Cpu or cuda.

    Raises:
        typer.BadParameter: Another name, or there is no CUDA device.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise typer.BadParameter(f"--device {name!r}: expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("--device cuda: torch finds no CUDA device; use cpu or auto")
    return torch.device(name)


if __name__ == "__main__":
    main()
