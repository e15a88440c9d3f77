"""The methods: a line each, by the head whose maps they read. Known without loading one."""

from typing import Literal

from runs.errors import ConfigError

Head = Literal["center", "anchor"]
METHOD_PLACES: dict[Head, dict[str, str]] = {
    "center": {
        "imitation": "student_train.methods.imitation:Imitation",
        "xgd": "student_train.methods.xgd:Xgd",
        "labeldistill": "student_train.methods.labeldistill:LabelDistill",
        "unidistill": "student_train.methods.unidistill:UniDistill",
        "stxd": "student_train.methods.stxd:Stxd",
        "simdistill": "student_train.methods.simdistill:SimDistill",
        "tigbev": "student_train.methods.tigbev:TigBev",
    },
    "anchor": {
        "xgd": "student_train.methods.anchor_xgd:AnchorXgd",
        "cld": "student_train.methods.cld:Cld",
        "liga": "student_train.methods.liga:Liga",
        "response": "student_train.methods.response:Response",
    },
}
# Names for several methods at once.
COMBINATIONS = {"stereodistill": ("xgd", "cld")}


def known_methods() -> str:
    """What a user may name, for messages."""
    names = {name for places in METHOD_PLACES.values() for name in places}
    return ", ".join(sorted(names | COMBINATIONS.keys()))


def named_methods(text: str) -> list[str]:
    """What stands in a ``--method`` value, whether known or not."""
    return [own for name in text.split("+") for own in COMBINATIONS.get(name, (name,))]


def parse_methods(text: str) -> tuple[str, ...]:
    """Names in a ``--method`` value: "xgd", "xgd+imitation", "stereodistill", or "none".

    Raises:
        ConfigError: An unknown or repeated name.
    """
    if text == "none":
        return ()
    known = {name for places in METHOD_PLACES.values() for name in places}
    names = named_methods(text)
    unknown = [name for name in names if name not in known]
    if unknown or len(set(names)) < len(names):
        problem = f"unknown method {unknown[0]!r}" if unknown else f"{text!r} repeats a method"
        raise ConfigError(f"{problem}; known: none, {known_methods()} (join with +)")
    return tuple(names)
