"""What dumps weigh, for people."""

from collections.abc import Sequence

from rich.table import Table

from commands.amounts import human_bytes
from store.paper_scale import PAPERS
from store.plan import EstimateRow


def plan_table(sizes: Sequence[EstimateRow]) -> Table:
    """What a dump will write, before compression."""
    table = Table(title="planned arrays (before compression)")
    for column in ("array", "shape", "stored as"):
        table.add_column(column)
    for column in ("max error", "bytes / row", "total"):
        table.add_column(column, justify="right")
    for row in sizes:
        error = f"{row.max_error:.2g}" if row.max_error else "lossless"
        size = f"{row.bytes_per_row:,.0f}", human_bytes(row.total)
        table.add_row(row.array, row.shape, row.dtype, error, *size)
    total = sum(row.total for row in sizes)
    per_row = sum(row.bytes_per_row for row in sizes)
    table.add_section()
    table.add_row("all", "", "", "", f"{per_row:,.0f}", human_bytes(total))
    return table


def paper_plans() -> str:
    """Markdown: what each paper's losses read at the paper's sizes, array by array."""
    lines = [
        "| method | array | one value | dtype | bytes / frame | total |",
        "|---|---|---|---|---:|---:|",
    ]
    for paper in PAPERS:
        lines += [
            f"| {paper.method} | {row.array} | {row.shape} | {row.dtype} "
            f"| {row.bytes_per_row:,.0f} | {human_bytes(row.total)} |"
            for row in paper.plan
        ]
        kept = sum(row.bytes_per_row for row in paper.plan)
        half, full = (paper.dense_bytes(dtype) for dtype in ("float16", "float32"))
        frames = f"{paper.frames:,} frames of {paper.dataset}"
        dense = f"whole maps: {half:,} in float16, {full:,} in float32"
        lines.append(
            f"| **{paper.method}** | **all**, {frames} | {dense} | {half / kept:,.1f} times less "
            f"than float16 | **{kept:,.0f}** | **{human_bytes(kept * paper.frames)}** |"
        )
    return "\n".join(lines)
