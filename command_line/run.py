"""Running commands: how they end."""

import sys

import typer
from rich.console import Console
from rich.traceback import install as pretty_tracebacks

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


def run(commands: typer.Typer) -> None:
    """Run them; a user's error is one clear message and exit code 1."""
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
