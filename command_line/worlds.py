"""Commands that make worlds: the whole job on one, or the tree alone."""

from pathlib import Path
from typing import Annotated

import typer

from command_line.options import (
    ConfigPath,
    OutDir,
    PrintConfig,
    comma_separated,
    printed,
    require_folder,
)


def demo(
    out: Annotated[
        Path | None,
        typer.Option(
            callback=require_folder,
            show_default="demo_out or demo_kitti_out",
            help="Folder for the result.",
        ),
    ] = None,
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
    run_demo(configs, out or Path(f"{DEMOS[data][0]}_out"), data, comma_separated(methods))


def make_world(
    config: ConfigPath,
    out: OutDir,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    print_config: PrintConfig = False,
) -> None:
    """Write a procedural world as a genuine nuScenes or KITTI tree."""
    from commands import world

    wanted = world.load_world(config)
    if not printed(wanted, print_config):
        world.make_world(wanted, out, workers)
