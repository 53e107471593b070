"""The partition of the parameters: one label each, by the first rule that matches its path.

    frozen     backbone weights under LoRA: no gradient is computed for them
    lora_a, lora_b   adapters; B apart so that LoRA+ can give it its own rate (arXiv 2402.12354)
    backbone   backbone weights without LoRA
    mhc, mhc_no_decay   hyper-connections: projections; gates and offsets. They train under LoRA too
    head       encoders, embeddings, projection, decoder
    no_decay   offsets and norms that train
A parameter that no rule matches is an error: nothing trains, or stays frozen, by accident.
"""

import re
from collections.abc import Iterable

from wound_jax.arrays import Parameters

FROZEN = "frozen"

_HEADS = (
    r"^(perturbation_encoder|control_encoder|animal_embedding|timepoint_embedding|scalar_encoder"
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
