"""The split, as a table people read before training: who is held out, and what is shared."""

from collections import Counter

import numpy as np

from wound_jax.data.annotations import Annotations
from wound_jax.data.splits import PARTS, Split


def split_table(split: Split, annotations: Annotations) -> str:
    """Cells per type, timepoint and condition in each part, animals, and shared controls."""
    parts = {
        part: np.union1d(split.treated[part], split.controls[part]).astype(int) for part in PARTS
    }
    counts = {part: _counts(annotations, cells) for part, cells in parts.items()}
    rows = sorted(set().union(*counts.values()))
    width = max(len(" ".join(row)) for row in rows)
    lines = [f"split: {split.kind}{' (LEAKY: cells of one animal on both sides)' if split.leaky else ''}"]
    lines.append(f"{'cell type, timepoint, condition':<{max(width, 31)}}" + "".join(f"{p:>8}" for p in PARTS))
    lines += [
        f"{' '.join(row):<{max(width, 31)}}" + "".join(f"{counts[p][row] or '-':>8}" for p in PARTS)
        for row in rows
    ]
    lines += [_part_line(split, annotations, part) for part in PARTS]
    return "\n".join(lines)


def _counts(annotations: Annotations, cells: np.ndarray) -> Counter:
    labels = annotations.take(cells)
    return Counter(zip(labels.cell_type, labels.timepoint, labels.condition, strict=True))


def _part_line(split: Split, annotations: Annotations, part: str) -> str:
    """One line on a part: its cells, its animals, how many of its controls training sees too."""
    treated, controls = split.treated[part], split.controls[part]
    animals = sorted(set(annotations.animal[treated]) - {""})
    named = f"; treated animals: {', '.join(animals)}" if animals else ""
    shared = "" if part == "train" else f", {split.shared_controls(part)} of them shared with train"
    return f"{part}: {len(treated)} treated, {len(controls)} control cells{shared}{named}"
