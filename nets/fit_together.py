"""One message for networks whose parts do not fit together."""

from collections.abc import Mapping


def check_fit(pairs: Mapping[str, tuple[object, object]]) -> None:
    """Refuse parts that do not take what the part before gives.

    Args:
        pairs: By the name of a setting, what it is and what its input gives.

    Raises:
        ValueError: Naming all that differ.
    """
    wrong = [f"{k} is {a}, its input gives {b}" for k, (a, b) in pairs.items() if a != b]
    if wrong:
        raise ValueError("parts do not fit together: " + "; ".join(wrong))
