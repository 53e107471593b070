"""Tables as text and as files: aligned columns, figures of a fixed form, CSV without NaN."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows with the columns of the first; figures that are not defined stay empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: "" if _undefined(v) else v for k, v in row.items()} for row in rows)


def shown_figure(metric: str, value: float) -> str:
    """A figure with the digits that its metric deserves."""
    if math.isnan(value):
        return "n/a"
    return f"{value:.5f}" if metric == "mse" else f"{value:.3f}"


def shown_interval(metric: str, value: float, low: float, high: float) -> str:
    """A difference with its sign and, where there is one, its interval."""
    if math.isnan(value):
        return "n/a"
    value = value if round(value, 5) else 0.0
    sign = "+" if value >= 0 else ""
    if math.isnan(low) or math.isnan(high):
        return f"{sign}{shown_figure(metric, value)}"
    ends = f"[{shown_figure(metric, low)}, {shown_figure(metric, high)}]"
    return f"{sign}{shown_figure(metric, value)} {ends}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of one width, all to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return [line.rstrip() for line in lines]


def _undefined(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def without_nan(value: Any) -> Any:
    """JSON has no NaN: a figure that is not defined is null."""
    if isinstance(value, dict):
        return {key: without_nan(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    return None if _undefined(value) else value
