"""What each method brings: the same student, budget and data, paired seeds, official metrics.

    python -m benchmarks.gains --out OUT               # nuScenes; continues where it stopped
    python -m benchmarks.gains --part kitti --out OUT --seeds 0,1 --arms none,xgd
    python -m benchmarks.gains --part unidistill --records benchmarks/records --only-tables

Makes the part's world, trains and dumps its teachers once, then trains a student for every arm and
seed, ``--jobs`` at a time on one thread each, and prints mean, spread and the paired difference to
the same student without a method. Parts and arms: ``benchmarks/gain_parts.py``. A finished run
leaves a record, from which tables and pictures are made; what is recorded is not run again, also
on another machine.

In nuScenes a class that is hardly found counts with the largest errors in NDS and in the mean TP
errors, which then jump with a handful of boxes; so the errors of the classes that every run finds
are printed too.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.gain_parts import PARTS, made_first
from benchmarks.gain_pictures import draw_gains
from benchmarks.gain_records import Records, origins
from benchmarks.gain_runs import Comparison
from benchmarks.gain_tables import of_nuscenes, reports
from command_line.options import comma_separated
from command_line.run import run
from commands.progress import console

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(  # noqa: PLR0913 - the options of a command
    out: Annotated[
        Path | None, typer.Option(help="Folder for world, caches, runs and pictures.")
    ] = None,
    part: Annotated[str, typer.Option(help=f"{', '.join(PARTS)}.")] = "nuscenes",
    arms: Annotated[str, typer.Option(help="Comma-separated; default: the part's.")] = "",
    seeds: Annotated[str, typer.Option(help="Seeds to run, comma-separated.")] = "0,1,2",
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, one thread each.")] = 2,
    configs: Annotated[Path, typer.Option(help="Folder of the TOMLs.")] = Path("configs"),
    records: Annotated[
        Path | None, typer.Option(help="Folder of the finished runs' records; default: in OUT.")
    ] = None,
    *,
    only_tables: Annotated[
        bool, typer.Option("--only-tables", help="Run nothing: draw what is recorded.")
    ] = False,
) -> None:
    """Run what is neither there nor recorded, then print the tables of all that is recorded."""
    if out is None and not (only_tables and records):
        raise typer.BadParameter("--out is needed, but for --only-tables with --records")
    _require_known("part", [part], PARTS)
    wanted = PARTS[part]
    names = comma_separated(arms) or list(wanted.arms if only_tables else wanted.usual)
    _require_known("arm", names, wanted.arms)
    chosen = {name: wanted.arms[name] for name in names}
    place = records or _given(out) / "records"
    book = Records(place, wanted.home)
    if not only_tables:
        comparison = Comparison(wanted, chosen, _given(out), configs, book)
        comparison.run(_numbers(seeds), jobs)
    results = book.read([*made_first(chosen.values()), *chosen])
    shown = {name: arm for name, arm in chosen.items() if any(run[0] == name for run in results)}
    if not shown:
        raise typer.BadParameter(f"{place / wanted.home} holds no record of {', '.join(names)}")
    made, runs = reports(results, shown), origins(results.values())
    for report in made:
        console.print(report.rich())
    for line in runs:
        console.print(f"run: {line}", soft_wrap=True)
    drawn = out or place / part
    drawn.mkdir(parents=True, exist_ok=True)
    lines = [*(f"- {line}" for line in runs), "", *(report.markdown() for report in made)]
    (drawn / "tables.md").write_text("\n".join(lines))
    if of_nuscenes(results):
        draw_gains(results, shown, drawn)


def _require_known(kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"unknown {kind} {name!r}; known: {', '.join(known)}")


def _numbers(seeds: str) -> list[int]:
    try:
        return [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise typer.BadParameter(f"seeds are numbers, found {seeds!r}") from None


def _given(out: Path | None) -> Path:
    assert out is not None, "main has asked for it"
    return out


if __name__ == "__main__":
    run(app)
