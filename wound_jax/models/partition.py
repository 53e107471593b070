"""Parameter labels: one each, by the first rule that matches its path; and the table of them.

    frozen             backbone weights under LoRA: no gradient is computed for them
    lora_a, lora_b     adapters; B apart so that LoRA+ can give it its own rate (arXiv 2402.12354)
    backbone           backbone weights without LoRA
    mhc, mhc_no_decay  hyper-connections: projections; gates and offsets. They train under LoRA too
    head               encoders, embeddings, projection, decoder
    no_decay           offsets and norms that train

A parameter that no rule matches is an error: nothing trains, or stays frozen, by accident.

The table counts parameters, in all and trainable, per label, backbone and heads apart: the
published "1.68 % trainable" counted the backbone alone; here both counts stand side by side.
"""

import re
from collections import Counter
from collections.abc import Iterable

from wound_jax.arrays import Parameters

FROZEN = "frozen"


_HEADS = (
    r"^(perturbation_encoder|control_encoder|replicate_embedding|timepoint_embedding|scalar_encoder"
    r"|project_out|gene_decoder)\."
)


_OFFSET = r"\.(bias|scale|weight_scale)$"


def _rules(lora: bool) -> list[tuple[str, str]]:
    """(pattern, label), the first match decides."""
    backbone = [(r"^backbone\.", FROZEN)]
    if not lora:
        backbone = [(rf"^backbone\..*{_OFFSET}", "no_decay"), (r"^backbone\.", "backbone")]
    return [
        (r"\.lora_a$", "lora_a"),
        (r"\.lora_b$", "lora_b"),
        (r"^backbone\.residual\..*\.(phi|logits)$", "mhc"),
        (r"^backbone\.residual\.", "mhc_no_decay"),
        *backbone,
        (rf"{_HEADS}.*{_OFFSET[2:]}", "no_decay"),
        (_HEADS, "head"),
    ]


def label_parameters(names: Iterable[str], *, lora: bool) -> dict[str, str]:
    """The label of each parameter.

    Args:
        names: dotted paths.
        lora: whether adapters are on, and the backbone below them frozen.

    Raises:
        KeyError: no rule covers a path (a module was added without a rule).
    """
    rules = _rules(lora)
    labels = {}
    for name in names:
        label = next((label for pattern, label in rules if re.search(pattern, name)), None)
        if label is None:
            raise KeyError(f"no partition rule covers parameter {name!r}; add one to {__name__}.")
        labels[name] = label
    return labels


def partition(parameters: Parameters, labels: dict[str, str]) -> tuple[Parameters, Parameters]:
    """Divides parameters into those that train and those that do not."""
    trainable = {name: v for name, v in parameters.items() if labels[name] != FROZEN}
    return trainable, {name: v for name, v in parameters.items() if labels[name] == FROZEN}


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
