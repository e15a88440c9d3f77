"""What the figures of a benchmark belong to."""

import os
from pathlib import Path

import torch


def machine() -> str:
    """Cores, whether they have AMX, and torch's version."""
    facts = Path("/proc/cpuinfo").read_text()
    model = next(
        line.split(":")[1].strip() for line in facts.splitlines() if line.startswith("model name")
    )
    amx = "with" if "amx_tile" in facts else "no"
    return f"{os.cpu_count()} {model} cores, {amx} AMX, torch {torch.__version__}"
