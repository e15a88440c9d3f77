"""What refuses networks whose parts, or sizes, do not fit together."""

from collections.abc import Mapping, Sequence


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


def require_multiple(name: str, sizes: Sequence[int], stride: int, whose: str) -> None:
    """Refuse sizes that a network would have to round.

    Args:
        name: Of the setting, or of what has the sizes.
        sizes: Cells or pixels along each axis.
        stride: What they are divided by.
        whose: Whose stride it is, as "the backbone's".

    Raises:
        ValueError: One of them is no multiple of the stride.
    """
    if any(size % stride for size in sizes):
        raise ValueError(
            f"{name} {tuple(sizes)} is no multiple of {whose} stride {stride}: change one of them"
        )


def require_same_length(config: object, *names: str) -> None:
    """Refuse fields of a config that do not all speak of the same stages.

    Raises:
        ValueError: They are not equally long.
    """
    lengths = {name: len(getattr(config, name)) for name in names}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"one entry a stage expected in each, found {lengths}")
