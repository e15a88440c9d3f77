"""One file per paper; ``none`` is the empty list."""

from pkgutil import resolve_name

from student_train.methods.base import Method
from student_train.registry import METHOD_PLACES

METHODS: dict[str, type[Method]] = {
    name: resolve_name(place) for name, place in METHOD_PLACES.items()
}
