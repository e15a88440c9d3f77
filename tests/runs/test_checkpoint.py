import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from runs.checkpoint import load_checkpoint, save_checkpoint
from runs.errors import CheckpointError


class Exploit:
    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (Path("/tmp/bevcache-exploited"),)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "teacher.pt"
    save_checkpoint(path, "teacher", {"a": 1}, nn.Linear(2, 3), {"frames": 4})
    return path


def test_round_trip(saved: Path):
    network = nn.Linear(2, 3)
    checkpoint = load_checkpoint(saved, "teacher")
    checkpoint.load_into(network)
    assert checkpoint.config == {"a": 1}
    assert torch.equal(network.weight, checkpoint.weights["weight"])
    assert not list(saved.parent.glob("*.partial"))


def test_a_truncated_file(saved: Path):
    saved.write_bytes(saved.read_bytes()[:-300])
    with pytest.raises(CheckpointError, match=r"cannot be read .*truncated"):
        load_checkpoint(saved)


def test_a_missing_file(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"no checkpoint .*train one first"):
        load_checkpoint(tmp_path / "none.pt")


def test_another_kind(saved: Path):
    with pytest.raises(CheckpointError, match=r"holds a teacher, expected a student"):
        load_checkpoint(saved, "student")


def test_another_shape(saved: Path):
    with pytest.raises(CheckpointError, match=r"(?s)does not fit: .*size mismatch"):
        load_checkpoint(saved).load_into(nn.Linear(2, 4))


def test_a_missing_weight(saved: Path):
    with pytest.raises(CheckpointError, match=r"Missing key"):
        load_checkpoint(saved).load_into(nn.Sequential(nn.Linear(2, 3)))


def test_a_hostile_file_executes_nothing(tmp_path: Path):
    path = tmp_path / "evil.pt"
    torch.save({"weights": Exploit()}, path)
    with pytest.raises(CheckpointError, match=r"cannot be read"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(Exploit(), protocol=2))
    with pytest.raises(CheckpointError, match=r"cannot be read"):
        load_checkpoint(path)
    assert not Path("/tmp/bevcache-exploited").exists()


def test_a_stranger_is_told(tmp_path: Path):
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"not a bevcache checkpoint"):
        load_checkpoint(tmp_path / "other.pt")
