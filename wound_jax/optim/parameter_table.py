"""How many parameters there are and how many train, per label, backbone and heads apart.

The published "1.68 % trainable" counted the backbone alone; here both counts stand side by side.
"""

from collections import Counter

from wound_jax.arrays import Parameters
from wound_jax.optim.partition import FROZEN


def parameter_table(parameters: Parameters, labels: dict[str, str]) -> dict:
    """Counts parameters.

    Returns:
        `{"labels": {label: {"backbone": n, "heads": n}}, "total": {...}, "trainable": {...}}`, each
        count divided into the backbone and the heads around it.
    """
    counts: dict[str, Counter] = {}
    for name, value in parameters.items():
        part = "backbone" if name.startswith("backbone.") else "heads"
        counts.setdefault(labels[name], Counter(backbone=0, heads=0))[part] += int(value.size)
    trainable = [count for label, count in counts.items() if label != FROZEN]
    return {
        "labels": {label: dict(counts[label]) for label in sorted(counts)},
        "trainable": _total(trainable),
        "total": _total(counts.values()),
    }


def _total(counts) -> dict[str, int]:
    return {part: sum(count[part] for count in counts) for part in ("backbone", "heads")}


def format_parameter_table(table: dict) -> str:
    """The counts as aligned text, with the trainable share."""
    rows = [(label, count) for label, count in table["labels"].items()]
    rows += [("trainable", table["trainable"]), ("total", table["total"])]
    lines = [f"{'parameters':<12}{'backbone':>14}{'heads':>14}{'all':>14}"]
    for label, count in rows:
        both = count["backbone"] + count["heads"]
        lines.append(f"{label:<12}{count['backbone']:>14,}{count['heads']:>14,}{both:>14,}")
    lines.append(
        f"trainable share: {_share(table, 'backbone')} of the backbone, {_share(table)} of all"
    )
    return "\n".join(lines)


def _share(table: dict, part: str | None = None) -> str:
    parts = [part] if part else ["backbone", "heads"]
    total = sum(table["total"][p] for p in parts)
    return f"{100 * sum(table['trainable'][p] for p in parts) / max(total, 1):.2f} %"
