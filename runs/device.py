"""The device that a user names."""

import torch

from runs.errors import ConfigError


def find_device(name: str) -> torch.device:
    """Cpu or cuda; ``auto`` takes cuda where there is one.

    Raises:
        ConfigError: Another name, or there is no CUDA device.
    """
    available = torch.cuda.is_available()
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device {name!r}: expected auto, cpu or cuda")
    if name == "cuda" and not available:
        raise ConfigError("--device cuda: torch finds no CUDA device; use cpu or auto")
    return torch.device("cuda" if available and name != "cpu" else "cpu")
