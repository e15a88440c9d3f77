"""What a path holds: plain facts, and the same as tables for people."""

from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.pretty import pretty_repr
from rich.table import Table
from rich.text import Text

from commands.amounts import human_bytes
from runs.checkpoint import load_checkpoint
from store.catalogue_file import PREFIX
from store.errors import NotACacheError, printable
from store.remote import is_url
from store.summary import summary


def describe(place: str) -> dict[str, Any]:
    """Facts about a cache (a folder, a URL, or ``team:NAME``) or a checkpoint (a file).

    Raises:
        CacheError: The folder holds no store, or a damaged one.
        CheckpointError: The file is no checkpoint.
    """
    if is_url(place) or place.startswith(PREFIX) or Path(place).is_dir():
        return summary(place)
    if not Path(place).exists():
        raise NotACacheError(f"there is no {place}: expected a cache or a checkpoint")
    checkpoint = load_checkpoint(Path(place))
    return {
        "kind": checkpoint.kind,
        "sha256": checkpoint.sha256,
        "parameters": sum(value.numel() for value in checkpoint.weights.values()),
        "notes": checkpoint.notes,
        "config": checkpoint.config,
    }


def tables(facts: dict[str, Any]) -> RenderableType:
    """The facts of ``describe``, to be read by people."""
    if "arrays" in facts:
        return Group(_facts_table(_of_store(facts)), _arrays_table(facts["arrays"]))
    return _facts_table(facts)


def _of_store(facts: dict[str, Any]) -> dict[str, Any]:
    made_for = facts["fingerprint"]
    teacher, dataset, grid = made_for["teacher"], made_for["dataset"], made_for["grid"]
    done, parts = facts["parts"]
    named = {"catalogue": facts["listed_as"]} if facts["listed_as"] else {}
    sources = {"merged from": "\n".join(made_for["sources"])} if made_for["sources"] else {}
    state = "finished" if facts["complete"] else f"unfinished: {done} of {parts} parts"
    return {
        "store": facts["location"],
        **named,
        "state": state,
        "manifest": facts["manifest_hash"] or "none yet",
        "size": f"{human_bytes(facts['bytes'])}, {facts['rows']:,} rows",
        "teacher": f"{teacher['name']} ({teacher['kind']})",
        "checkpoint": teacher["checkpoint_sha256"],
        "data": f"{dataset['name']} {dataset['version']}, split {dataset['split']}",
        "ground truth": dataset["ground_truth_filter"],
        "grid": grid,
        "classes": ", ".join(made_for["classes"]),
        "coverage": made_for["coverage"],
        "augmentation": made_for["augmentation"],
        "code revision": made_for["code_revision"],
        **sources,
    }


def _facts_table(facts: dict[str, Any]) -> Table:
    table = Table(show_header=False)
    table.add_column()
    # Whole hashes, to be copied.
    table.add_column(overflow="fold")
    for name, value in facts.items():
        text = value if isinstance(value, str) else pretty_repr(value, max_width=80)
        # Text: brackets in a store of others are no markup.
        table.add_row(Text(name), Text(printable(text)))
    return table


def _arrays_table(arrays: list[dict[str, Any]]) -> Table:
    table = Table(title="arrays")
    for column in ("array", "shape", "stored as"):
        table.add_column(column)
    for column in ("max error", "raw bytes / frame", "stored bytes / frame"):
        table.add_column(column, justify="right")
    for array in arrays:
        table.add_row(
            array["name"],
            " x ".join([array["places"], *map(str, array["shape"])]),
            array["encoding"] or array["dtype"],
            f"{array['max_error']:.2g}" if array["max_error"] else "lossless",
            f"{array['raw_bytes_per_frame']:,.0f}",
            f"{array['stored_bytes_per_frame']:,.0f}",
        )
    return table
