"""Time that a timepoint's label names, in days: `day10`, `D10`, `10 dpi` -> 10.0."""

import re
from collections.abc import Iterable

import numpy as np

from wound_jax.errors import UserError

_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def time_of(label: str) -> float:
    """The one number in a label; NaN where there is none, or more than one."""
    found = _NUMBER.findall(label)
    return float(found[0]) if len(found) == 1 else float("nan")


def require_times(labels: Iterable[str]) -> None:
    """Refuses timepoints that name no time, for a model that is given the time.

    Raises:
        UserError: naming the labels.
    """
    nameless = sorted({label for label in labels if not np.isfinite(time_of(label))})
    if nameless:
        raise UserError(
            f"model.timepoint_embedding=continuous needs one number in each timepoint, but "
            f"{', '.join(map(repr, nameless))} names no single time; rename them (day10), or set "
            "model.timepoint_embedding=categorical."
        )
