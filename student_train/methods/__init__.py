"""One file per paper; ``none`` is the empty list."""

from pkgutil import resolve_name

from student_train.methods.base import Method
from student_train.registry import METHOD_PLACES, Head

METHODS: dict[Head, dict[str, type[Method]]] = {
    head: {name: resolve_name(place) for name, place in places.items()}
    for head, places in METHOD_PLACES.items()
}
