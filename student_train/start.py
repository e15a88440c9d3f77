"""A student begins with the weights of a trained one: the same network, nothing left out."""

from typing import Any

from torch import nn

from runs.checkpoint import Checkpoint
from runs.errors import ConfigError
from store.differences import differences
from student_train.config import StudentRun

# What a network learns, how it is read and how it is computed, not what it is.
MAY_DIFFER: Any = {
    "loss": True,
    "image_loss": True,
    "decode": True,
    "depth_loss_weight": True,
    "past_grad": True,
    "depth": {"checkpointed"},
}


def start_from(network: nn.Module, run: StudentRun, start: Checkpoint) -> None:
    """Give the network a trained student's weights, strictly.

    Args:
        network: Of ``run``.
        run: The new run; its data, method and pace may be others than the start's.
        start: A student's checkpoint.

    Raises:
        ConfigError: It holds another network, also one whose weights happen to have these shapes;
            or its record does not fit this release.
        CheckpointError: Its weights do not fit its config.
    """
    trained = start.run(StudentRun)
    if mismatches := list(differences(_network(trained), _network(run))):
        raise ConfigError(
            f"--start {start.sha256[:12]} ({trained.name}) is another network than {run.name}; "
            f"give one with the same [student]:\n  " + "\n  ".join(mismatches)
        )
    start.load_into(network)


def without_pretraining(run: StudentRun) -> StudentRun:
    """The same run, its image backbone's weights not fetched: they would be overwritten."""
    return run.model_copy(update={"student": run.student.without_pretraining()})


def _network(run: StudentRun) -> dict[str, Any]:
    # Where an image backbone's first weights came from is no longer of interest.
    config = without_pretraining(run).student
    return {"student": config.model_dump(mode="json", exclude=MAY_DIFFER)}
