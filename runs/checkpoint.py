"""A trained model on disk: weights and the record of the run they belong to, nothing executable."""

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from runs.config import RunConfig, parse_config, renewed
from runs.errors import CheckpointError
from runs.files import replacing

Network = TypeVar("Network", bound=nn.Module)
Run = TypeVar("Run", bound=RunConfig)
Kind = Literal["teacher", "student", "label_encoder"]
FORMAT = 1
# In the notes of what was trained for one teacher.
TEACHER_SHA256 = "teacher_sha256"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a training run leaves behind.

    Attributes:
        kind: What it is, and so which stage made it.
        config: The run's record.
        weights: The network's state dict.
        notes: Facts about its making, for example the cache's manifest hash.
        sha256: Digest of the file, hexadecimal.
    """

    kind: Kind
    config: dict[str, Any]
    weights: dict[str, Tensor]
    notes: dict[str, Any]
    sha256: str

    def run(self, model: type[Run]) -> Run:
        """The run that left it.

        Raises:
            ConfigError: Its record does not fit this release.
        """
        return parse_config(model.own(self.config), model, f"checkpoint {self.sha256[:12]}")

    def load_into(self, network: nn.Module) -> None:
        """Copy the weights, strictly.

        Raises:
            CheckpointError: Some name is missing, unexpected, or of another shape.
        """
        try:
            network.load_state_dict(self.weights)
        except RuntimeError as error:
            raise CheckpointError(f"checkpoint {self.sha256[:12]} does not fit: {error}") from None

    def load_frozen(self, network: Network, device: torch.device) -> Network:
        """The network with these weights, on the device, in eval mode, without gradient.

        Raises:
            CheckpointError: As in ``load_into``.
        """
        self.load_into(network)
        return network.to(device).eval().requires_grad_(requires_grad=False)

    def require_teacher(self, sha256: str) -> None:
        """Refuse what was trained for another teacher than the one with this digest.

        Raises:
            CheckpointError: It was.
        """
        found = str(self.notes.get(TEACHER_SHA256))
        if found != sha256:
            raise CheckpointError(
                f"this {self.kind} ({self.sha256[:12]}) was trained for the teacher of checkpoint "
                f"{found[:12]}, expected {sha256[:12]}: give that teacher's, or train one for this "
                "teacher"
            )


def save_checkpoint(
    path: Path, kind: Kind, config: dict[str, Any], network: nn.Module, notes: dict[str, Any]
) -> None:
    """Write a checkpoint; an older one of that name is replaced at once or not at all."""
    # Contiguous: the memory layout of equal weights must not change the file's digest.
    weights = {
        name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()
    }
    record = {"format": FORMAT, "kind": kind, "config": config, "notes": notes, "weights": weights}
    with replacing(path) as partial:
        torch.save(record, partial)


def load_checkpoint(path: Path, kind: Kind | None = None) -> Checkpoint:
    """Read a checkpoint; never executes code from it.

    Raises:
        CheckpointError: Missing or damaged file, not a bevcache checkpoint, or another kind.
    """
    record = load_safely(path)
    keys = {"format", "kind", "config", "notes", "weights"}
    if not isinstance(record, dict) or set(record) != keys or record["format"] != FORMAT:
        raise CheckpointError(f"{path} is not a bevcache checkpoint of format {FORMAT}")
    if kind is not None and record["kind"] != kind:
        raise CheckpointError(f"{path} holds a {record['kind']}, expected a {kind}")
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Checkpoint(record["kind"], record["config"], record["weights"], record["notes"], sha256)


def load_safely(path: Path) -> Any:
    """What torch saved in a file, on the CPU, without executing anything from it.

    Raises:
        CheckpointError: Missing or damaged file.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint {path}; train one first, or give its path")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"checkpoint {path} cannot be read ({reason}); it is truncated or no checkpoint: "
            "copy it again or train again"
        ) from None


def is_finished(path: Path, run: RunConfig, **notes: Any) -> bool:
    """Whether a run of this config, and with these notes, has left its checkpoint there.

    Raises:
        CheckpointError: There is a file, but it is damaged.
    """
    if not path.is_file():
        return False
    found = load_checkpoint(path)
    same = renewed(found.config, type(run)) == run.record()
    # A note that an older release did not know is None.
    return same and all(found.notes.get(key) == value for key, value in notes.items())
