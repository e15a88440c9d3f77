"""One file per paper, and the registry; ``none`` is the empty list."""

from student_train.methods.base import Method
from student_train.methods.imitation import Imitation
from student_train.methods.xgd import Xgd

METHODS: dict[str, type[Method]] = {
    "imitation": Imitation,
    "xgd": Xgd,
}
