"""The command line, called as a user does."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest

import cli
from commands.progress import console


def command(*arguments: object) -> tuple[int, str]:
    """Exit code, and what was printed, on one line."""
    printed = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(printed),
        redirect_stderr(printed),
    ):
        patch.setattr(sys, "argv", ["bevcache", *map(str, arguments)])
        # For typer's errors; our console was made when it still had another value.
        patch.setenv("COLUMNS", "400")
        patch.setattr(console, "width", 400)
        with pytest.raises(SystemExit) as stop:
            cli.main()
    return int(stop.value.code or 0), " ".join(printed.getvalue().split())


def succeed(*arguments: object) -> str:
    """What was printed; the command must end well."""
    code, text = command(*arguments)
    assert code == 0, text
    return text
