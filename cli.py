"""Command line: a world, a teacher, its cache, students, official scores."""

import sys
from collections.abc import Callable

import typer
from rich.console import Console
from rich.traceback import install as pretty_tracebacks

from command_line import catalogue, stores, students, teachers, worlds
from commands.progress import console
from frames.errors import DataError
from runs.errors import CheckpointError, ConfigError, RunInterruptedError
from store.errors import CacheError, printable
from teacher_dump.errors import ScaleOutError, TeacherError

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
# In the order of the help.
COMMANDS: dict[str, Callable[..., None]] = {
    "demo": worlds.demo,
    "make-world": worlds.make_world,
    "train-teacher": teachers.train_teacher,
    "train-label-encoder": teachers.train_label_encoder,
    "dump-teacher": teachers.dump_teacher,
    "paper-plans": teachers.paper_plans,
    "train-student": students.train_student,
    "evaluate": students.evaluate,
    "score-kitti": students.score_kitti,
    "verify": stores.verify,
    "recheck": teachers.recheck,
    "copy": stores.copy,
    "merge": stores.merge,
    "info": stores.info,
}
for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(catalogue.names, name="catalogue")


def main() -> None:
    """Run the command line."""
    run(app)


def run(commands: typer.Typer) -> None:
    """Run commands; a user's error is one clear message and exit code 1."""
    pretty_tracebacks(console=console, show_locals=False)
    try:
        commands(standalone_mode=True)
    except USER_ERRORS as error:
        errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        errors.print(f"error: {printable(str(error), keep=chr(10))}")
        sys.exit(1)
    except RunInterruptedError as interruption:
        console.print(str(interruption))
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
