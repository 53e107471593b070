"""The day that a timepoint's label names: `day10`, `D10`, `10 dpi` -> 10.0."""

import re
from collections.abc import Iterable

import numpy as np

from wound_jax.errors import UserError

_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def day_of(label: str) -> float:
    """The one number in a label; NaN where there is none, or more than one."""
    found = _NUMBER.findall(label)
    return float(found[0]) if len(found) == 1 else float("nan")


def days_of(labels: np.ndarray) -> np.ndarray:
    """The day of each label, float32 `[cells]`; NaN where a label names none."""
    present, inverse = np.unique(labels.astype(str), return_inverse=True)
    return np.array([day_of(label) for label in present], dtype=np.float32)[inverse]


def require_days(labels: Iterable[str]) -> None:
    """Refuses timepoints that name no day, for a model that is told the day.

    Raises:
        UserError: naming the labels.
    """
    nameless = sorted({label for label in labels if not np.isfinite(day_of(label))})
    if nameless:
        raise UserError(
            f"model.timepoint_embedding=continuous needs one number in each timepoint, but "
            f"{', '.join(map(repr, nameless))} names no single day; rename them (day10), or set "
            "model.timepoint_embedding=categorical."
        )
