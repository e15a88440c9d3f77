"""Commands that run a teacher: training, dumping, holding a cache against it."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from command_line.options import (
    AsJson,
    ConfigPath,
    DataRoot,
    Device,
    LabelEncoderPath,
    Limit,
    OutDir,
    PrintConfig,
    Resume,
    Store,
    comma_separated,
    find_device,
    parsed_method,
    print_facts,
    printed,
)
from commands.progress import announce_room, console
from runs.config import load_config
from store.choices import MAX_VIEWS, Coverage, Encoding
from teacher_dump.defaults import OWN_TEACHER, TOLERANCE

if TYPE_CHECKING:
    import torch

    from commands.workers import Workers
    from teacher_dump.protocol import Teacher

Weights = Annotated[Path | None, typer.Option(help="The teacher's weights.")]
Factory = Annotated[str, typer.Option(help="package.module:factory of your own teacher.")]


def train_teacher(
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
    if not printed(run, print_config):
        path = train_teacher(run, out, resume=resume, device=find_device(device).type)
        console.print(f"wrote {path}")


def train_label_encoder(
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
    if not printed(run, print_config):
        path = train_label_encoder(
            run, checkpoint, out, resume=resume, device=find_device(device).type
        )
        console.print(f"wrote {path}")


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
    from commands.planned_dump import announce_time, methods_served, plan_teacher_dump
    from student_train.config import StudentRun

    run = load_config(config, StudentRun, data__root=data_root)
    names = comma_separated(methods)
    if "none" in names:
        raise typer.BadParameter("--methods none: it reads nothing of a teacher; name others")
    named = parsed_method("+".join(names)) if names else ""
    elsewhere = _workers(workers, scheduler, teacher, checkpoint, label_encoder, device)
    here = torch.device("cpu") if elsewhere else find_device(device)
    model = _teacher(teacher, checkpoint, label_encoder, here)
    run = run.model_copy(update={"method": named or "+".join(methods_served(model, run))})
    planned = plan_teacher_dump(
        model, run, coverage=coverage, views=views, encoding=encoding, limit=limit
    )
    if dry_run:
        announce_room(out, planned.plan.total)
        announce_time(model, planned, batch_size, range(len(planned.plan.rows)))
    else:
        steps.dump_teacher(
            model, planned, out, batch_size=batch_size, resume=resume, workers=elsewhere
        )


def recheck(
    config: ConfigPath,
    store: Store,
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
    model = _teacher(teacher, checkpoint, label_encoder, find_device(device))
    cache = open_cache(store)
    drawn = rechecking.rows_to_recheck(model, run, cache, rows, seed)
    if carry_over:
        shown = rechecking.augmented(run, cache, drawn, carry_over, seed)
        gaps = rechecking.recheck_carry_over(model, cache, shown, quiet=as_json)
        facts = [asdict(gap) for gap in gaps]
        print_facts(facts, rechecking.carry_table(gaps), as_json=as_json)
        return
    checks = rechecking.recheck_store(model, cache, drawn, tolerance, quiet=as_json)
    facts = [asdict(check) | {"passed": check.passed} for check in checks]
    print_facts(facts, rechecking.checks_table(checks), as_json=as_json)
    if not all(check.passed for check in checks):
        raise typer.Exit(1)


def paper_plans() -> None:
    """What the losses of the five papers read, at the papers' own sizes (Markdown)."""
    from commands.plans import paper_plans

    typer.echo(paper_plans())


def _teacher(
    factory: str, checkpoint: Path | None, label_encoder: Path | None, device: "torch.device"
) -> "Teacher":
    """The teacher, with its label encoder where one is given."""
    from teacher_dump.label_teacher import LabelTeacher
    from teacher_dump.protocol import load_teacher

    model = load_teacher(factory, checkpoint, device)
    return model if label_encoder is None else LabelTeacher(model, label_encoder, device)


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
    kind = device if scheduler else find_device(device).type
    return Workers(
        local=local,
        scheduler=scheduler,
        factory=factory,
        checkpoint=checkpoint,
        label_encoder=label_encoder,
        device=kind,
    )
