"""Scalar features of cells, such as magnitude, pseudotime and confidence of their velocity.

Columns of `obs`, standardised by the training cells: `(x - mean) / sd`; a missing value becomes 0,
the training mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from wound_jax.errors import UserError, unknown_name


@dataclass(frozen=True)
class ScalarColumn:
    """One feature and its scale on the training cells.

    Attributes:
        name: obs column.
        mean: mean over the training cells.
        sd: standard deviation over the training cells; 1 where it is 0.
    """

    name: str
    mean: float
    sd: float


def fit_scalars(
    obs: pd.DataFrame, names: Sequence[str], training: np.ndarray
) -> tuple[ScalarColumn, ...]:
    """The scale of each feature on the training cells.

    Args:
        obs: labels of all cells.
        names: the columns.
        training: positions of the training cells.

    Raises:
        UserError: a column is missing, holds no numbers, or is NaN for all training cells.
    """
    return tuple(_fit(name, _values(obs, name)[training]) for name in names)


def _fit(name: str, values: np.ndarray) -> ScalarColumn:
    if np.isnan(values).all():
        raise UserError(f"obs[{name!r}] is NaN for all training cells: there is nothing to learn.")
    sd = float(np.nanstd(values))
    return ScalarColumn(name, float(np.nanmean(values)), sd if sd > 0 else 1.0)


def read_scalars(obs: pd.DataFrame, columns: Sequence[ScalarColumn]) -> np.ndarray | None:
    """The standardised features, float32 `[cells, columns]`; None where a model has none."""
    if not columns:
        return None
    scaled = [(_values(obs, column.name) - column.mean) / column.sd for column in columns]
    return np.nan_to_num(np.stack(scaled, axis=1), nan=0.0).astype(np.float32)


def _values(obs: pd.DataFrame, name: str) -> np.ndarray:
    if name not in obs:
        raise unknown_name("obs column in model.scalars.columns", name, obs.columns)
    if not pd.api.types.is_numeric_dtype(obs[name]):
        raise UserError(f"obs[{name!r}] must hold numbers; it is {obs[name].dtype}.")
    values = obs[name].to_numpy(dtype=np.float64)
    if np.isinf(values).any():
        raise UserError(f"obs[{name!r}] holds infinite values; write NaN where one is unknown.")
    return values
