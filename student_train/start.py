"""A student begins with the weights of a trained one: the same network, nothing left out."""

from torch import nn

from runs.checkpoint import Checkpoint
from runs.config import parse_config
from runs.errors import ConfigError
from student_train.config import StudentRun

# What a network learns and how it is read, not what it is.
MAY_DIFFER = {"loss", "decode", "depth_loss_weight", "past_grad"}


def start_from(network: nn.Module, run: StudentRun, start: Checkpoint) -> None:
    """Give the network a trained student's weights, strictly.

    Args:
        network: Of ``run``.
        run: The new run; its data, method and pace may be others than the start's.
        start: A student's checkpoint.

    Raises:
        ConfigError: It holds another network, also one whose weights happen to have these shapes.
        CheckpointError: Its weights do not fit its config.
    """
    trained = parse_config(start.config, StudentRun, f"the student of --start {start.sha256[:12]}")
    theirs, ours = _network(trained), _network(run)
    differing = sorted(k for k in theirs.keys() | ours.keys() if theirs.get(k) != ours.get(k))
    if differing:
        raise ConfigError(
            f"--start {start.sha256[:12]} ({trained.name}) is another network than {run.name}: "
            f"student.{', student.'.join(differing)} differ; expected the same [student]"
        )
    start.load_into(network)


def _network(run: StudentRun) -> dict[str, object]:
    # Where an image backbone's first weights came from is no longer of interest.
    config = run.student.without_pretraining()
    return config.model_dump(mode="json", exclude=MAY_DIFFER)
