"""What is known of each cell besides its expression: condition, type, timepoint, animal.

Column names come from the config, so any AnnData fits. Everything is checked here, once: a missing
column, an absent control label, unlabelled cells and a filter that matches nothing are errors.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd

from wound_jax.config.schema import DataConfig
from wound_jax.errors import UserError, unknown_name

# The label of cells whose data have no column for it.
NO_LABEL = ""


@dataclass(frozen=True)
class Annotations:
    """Labels of each cell, as arrays of strings of one length.

    Attributes:
        names: the cells' own names (barcodes).
        condition: perturbation or control.
        cell_type: cell type.
        timepoint: timepoint; empty strings where the data have none.
        animal: mouse or donor; empty strings where the data have none.
    """

    names: np.ndarray
    condition: np.ndarray
    cell_type: np.ndarray
    timepoint: np.ndarray
    animal: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def take(self, index: np.ndarray) -> "Annotations":
        """The labels of the cells at `index` (positions or a boolean mask)."""
        return Annotations(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def column(self, name: str) -> np.ndarray:
        """One label by its role: "condition", "cell_type", "timepoint" or "animal"."""
        return getattr(self, name)


def read_annotations(obs: pd.DataFrame, config: DataConfig) -> Annotations:
    """Reads the labels of all cells.

    Args:
        obs: the AnnData's `obs`.
        config: names the columns.

    Raises:
        UserError: a column is missing or holds unlabelled cells.
    """
    roles = {
        "condition": config.pert_col,
        "cell_type": config.cell_type_col,
        "timepoint": config.timepoint_col,
        "animal": config.animal_col,
    }
    labels = {role: _labels(obs, role, column) for role, column in roles.items()}
    return Annotations(names=obs.index.to_numpy().astype(str), **labels)


def _labels(obs: pd.DataFrame, role: str, column: str | None) -> np.ndarray:
    if column is None:
        return np.full(len(obs), NO_LABEL, dtype=object)
    if column not in obs:
        raise unknown_name(f"obs column for the {role}", column, obs.columns)
    if obs[column].isna().any():
        raise UserError(
            f"obs[{column!r}] has no {role} for {int(obs[column].isna().sum())} of {len(obs)} "
            "cells; label them or drop them from the file."
        )
    return obs[column].astype(str).to_numpy(dtype=object)


def require_control(annotations: Annotations, control: str) -> None:
    """Checks that there are control cells and treated cells.

    Raises:
        UserError: the control label is absent, or is the only one.
    """
    present = sorted(set(annotations.condition))
    if control not in present:
        raise unknown_name("control label (data.control)", control, present)
    if present == [control]:
        raise UserError(f"all cells are {control!r} cells: there is no treated cell to learn from.")


def excluded(obs: pd.DataFrame, exclude: Mapping[str, tuple[str, ...]]) -> np.ndarray:
    """Which cells `data.exclude` leaves out: boolean `[cells]`.

    Raises:
        UserError: a column or a value of the filter does not occur.
    """
    out = np.zeros(len(obs), dtype=bool)
    for column, values in exclude.items():
        if column not in obs:
            raise unknown_name("obs column in data.exclude", column, obs.columns)
        labels = obs[column].astype(str).to_numpy()
        for value in values:
            if value not in labels:
                raise unknown_name(f"value of {column!r} in data.exclude", value, set(labels))
            out |= labels == value
    return out
