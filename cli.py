"""Command line: a world, a teacher, its cache, students, official scores."""

from collections.abc import Callable

import typer

from command_line import catalogue, stores, students, teachers, worlds
from command_line.run import run

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


if __name__ == "__main__":
    main()
