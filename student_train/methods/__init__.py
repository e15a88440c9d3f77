"""One file per paper. The dict below is the whole registry; ``none`` is the empty list."""

from runs.config import ConfigError
from student_train.methods.base import Method
from student_train.methods.imitation import Imitation
from student_train.methods.xgd import Xgd

METHODS: dict[str, type[Method]] = {
    "imitation": Imitation,
    "xgd": Xgd,
}


def parse_methods(text: str) -> tuple[str, ...]:
    """Names in a ``--method`` value: "xgd", "xgd+imitation", or "none".

    Raises:
        ConfigError: An unknown or repeated name.
    """
    if text == "none":
        return ()
    names = tuple(text.split("+"))
    unknown = [name for name in names if name not in METHODS]
    if unknown or len(set(names)) < len(names):
        problem = f"unknown method {unknown[0]!r}" if unknown else f"{text!r} repeats a method"
        raise ConfigError(f"{problem}; known: none, {', '.join(METHODS)} (join with +)")
    return names
