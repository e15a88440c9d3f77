"""The methods: a line each. Their names are known without loading one."""

from runs.errors import ConfigError

METHOD_PLACES = {
    "imitation": "student_train.methods.imitation:Imitation",
    "xgd": "student_train.methods.xgd:Xgd",
}


def parse_methods(text: str) -> tuple[str, ...]:
    """Names in a ``--method`` value: "xgd", "xgd+imitation", or "none".

    Raises:
        ConfigError: An unknown or repeated name.
    """
    if text == "none":
        return ()
    names = tuple(text.split("+"))
    unknown = [name for name in names if name not in METHOD_PLACES]
    if unknown or len(set(names)) < len(names):
        problem = f"unknown method {unknown[0]!r}" if unknown else f"{text!r} repeats a method"
        raise ConfigError(f"{problem}; known: none, {', '.join(METHOD_PLACES)} (join with +)")
    return names
