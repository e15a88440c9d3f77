"""Where two JSON documents differ."""

from collections.abc import Iterator
from typing import Any


def differences(found: Any, expected: Any, where: str = "") -> Iterator[str]:
    """Where two JSON documents differ, one readable line for each leaf.

    Args:
        found: What is there.
        expected: What should be.
        where: Dotted path of both inside their documents.

    Yields:
        ``path: found x, expected y``; a side that lacks the key says ``nothing``.
    """
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in sorted(found.keys() | expected.keys()):
            path = f"{where}.{key}" if where else key
            if key not in found:
                yield f"{path}: found nothing, expected {expected[key]!r}"
            elif key not in expected:
                yield f"{path}: found {found[key]!r}, expected nothing"
            else:
                yield from differences(found[key], expected[key], path)
    elif _are_tables(found) and _are_tables(expected) and len(found) == len(expected):
        for index, (theirs, ours) in enumerate(zip(found, expected, strict=True)):
            yield from differences(theirs, ours, f"{where}[{index}]")
    elif found != expected:
        yield f"{where}: found {found!r}, expected {expected!r}"


def _are_tables(value: Any) -> bool:
    """Lists of plain values are told whole."""
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)
