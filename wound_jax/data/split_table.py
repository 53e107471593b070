"""The split, as a table people read before training: who is held out, and what is shared."""

from collections import Counter

import numpy as np

from wound_jax.data.annotations import Annotations
from wound_jax.data.splits import PARTS, Split

_HEADING = "cell type, timepoint, condition"
# (cell type, timepoint, condition)
Stratum = tuple[str, ...]


def split_table(split: Split, annotations: Annotations) -> str:
    """Cells per type, timepoint and condition in each part, animals, and shared controls.

    A star marks held-out control cells that training may use as well.
    """
    columns = [_column(split, annotations, part) for part in PARTS]
    rows = sorted(set().union(*columns))
    width = max(len(_HEADING), *(len(_name(row)) for row in rows))
    leaky = " (LEAKY: cells of one animal on both sides)" if split.leaky else ""
    lines = [f"split: {split.kind}{leaky}", _line(_HEADING, width, [f"{part} " for part in PARTS])]
    lines += [_line(_name(row), width, [c.get(row, "- ") for c in columns]) for row in rows]
    if any(split.shared_controls(part) for part in PARTS[1:]):
        lines.append("* control cells that training may use as well")
    lines += [_part_line(split, annotations, part) for part in PARTS]
    return "\n".join(lines)


def _column(split: Split, annotations: Annotations, part: str) -> dict[Stratum, str]:
    """What the table says of one part: its cells in each stratum."""
    treated, controls = split.treated[part], split.controls[part]
    counts = _counts(annotations, np.union1d(treated, controls))
    shared: set[Stratum] = set()
    if part != "train":
        shared = set(_counts(annotations, np.intersect1d(controls, split.controls["train"])))
    return {row: f"{n}{'*' if row in shared else ' '}" for row, n in counts.items()}


def _counts(annotations: Annotations, cells: np.ndarray) -> Counter[Stratum]:
    labels = annotations.take(cells)
    return Counter(zip(labels.cell_type, labels.timepoint, labels.condition, strict=True))


def _name(row: Stratum) -> str:
    return ", ".join(label for label in row if label)


def _line(name: str, width: int, cells: list[str]) -> str:
    return f"{name:<{width}}{''.join(f'{cell:>9}' for cell in cells)}".rstrip()


def _part_line(split: Split, annotations: Annotations, part: str) -> str:
    """One line on a part: its cells, its animals, how many of its controls training sees too."""
    treated, controls = split.treated[part], split.controls[part]
    animals = sorted(set(annotations.animal[treated]) - {""})
    named = f"; treated animals: {', '.join(animals)}" if animals else ""
    shared = "" if part == "train" else f", {split.shared_controls(part)} of them shared with train"
    return f"{part}: {len(treated)} treated, {len(controls)} control cells{shared}{named}"
