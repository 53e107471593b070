"""What is known of each cell besides its expression: condition, type, timepoint, replicate.

Column names come from the config, so any AnnData fits. Everything is checked here, once: a missing
column, an absent control label and a filter that matches nothing are errors, and what
`wound_jax.data.label_columns` refuses: unlabelled cells, and labels that look the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd

from wound_jax.data.label_columns import excluded_labels, read_column, refuse_half_named
from wound_jax.data.settings import DataSettings
from wound_jax.errors import UserError, unknown_name

# The label of cells whose data have no column for it, and their type where it is types.
NO_LABEL = ""
ONE_TYPE = "all cells"


@dataclass(frozen=True, eq=False)
class Annotations:
    """Labels of each cell, as arrays of strings of one length.

    Attributes:
        names: the cells' own names (barcodes).
        condition: perturbation or control.
        cell_type: cell type; `ONE_TYPE` where the data have none.
        timepoint: timepoint; empty strings where the data have none.
        replicate: mouse or donor; empty strings where the data have none.
    """

    names: np.ndarray
    condition: np.ndarray
    cell_type: np.ndarray
    timepoint: np.ndarray
    replicate: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def take(self, index: np.ndarray) -> "Annotations":
        """The labels of the cells at `index` (positions or a boolean mask)."""
        return Annotations(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def column(self, name: str) -> np.ndarray:
        """One label by its role: "condition", "cell_type", "timepoint" or "replicate"."""
        return getattr(self, name)

    def positions_by(
        self, roles: Sequence[str], cells: np.ndarray | None = None
    ) -> dict[tuple[str, ...], np.ndarray]:
        """Positions of cells by their labels.

        Args:
            roles: the labels that tell the cells apart, as `column` names them; may be none.
            cells: positions to consider; None takes all.

        Returns:
            The labels that occur together, and where; positions keep their order in `cells`.
        """
        cells = np.arange(len(self)) if cells is None else cells
        if not len(cells):
            return {}
        place = np.zeros(len(cells), dtype=np.int64)
        for role in roles:
            code, names = pd.factorize(self.column(role)[cells])
            # Renumbered at once, so that many labels with many values cannot overflow.
            place = np.unique(place * len(names) + code, return_inverse=True)[1]
        order = np.argsort(place, kind="stable")
        parts = np.split(cells[order], np.flatnonzero(np.diff(place[order])) + 1)
        return {tuple(str(self.column(role)[p[0]]) for role in roles): p for p in parts}


def read_annotations(obs: pd.DataFrame, config: DataSettings) -> Annotations:
    """Reads the labels of all cells.

    Args:
        obs: the AnnData's `obs`.
        config: names the columns.

    Raises:
        UserError: a column is missing, or holds unlabelled cells or labels that look the same.
    """
    return Annotations(
        names=obs.index.to_numpy().astype(str),
        condition=_labels(obs, "pert_col", config.pert_col, words=(config.control,)),
        cell_type=_labels(obs, "cell_type_col", config.cell_type_col, without=ONE_TYPE),
        timepoint=_labels(obs, "timepoint_col", config.timepoint_col),
        replicate=_labels(obs, "replicate_col", config.replicate_col),
    )


def _labels(
    obs: pd.DataFrame,
    key: str,
    column: str | None,
    *,
    without: str = NO_LABEL,
    words: Sequence[str] = (),
) -> np.ndarray:
    """The labels in the column that the config key `data.{key}` names, or one for all cells."""
    if column is None:
        return np.full(len(obs), without, dtype=object)
    if column not in obs:
        error = unknown_name(f"obs column in data.{key}", column, obs.columns)
        if key != "pert_col":
            raise UserError(f"{error} Where the data have no such label, set data.{key}=null.")
        raise error
    return read_column(obs, column, key, words)


def require_control(annotations: Annotations, control: str) -> None:
    """Checks that there are control cells and treated cells.

    Raises:
        UserError: the control label is absent, or is the only one.
    """
    present = sorted(set(annotations.condition))
    if control not in present:
        raise unknown_name("control label (data.control)", control, present)
    if present == [control]:
        raise UserError(
            f"all cells are {control!r} cells: there is no treated cell. Check data.pert_col and "
            "data.exclude."
        )


def excluded(
    obs: pd.DataFrame, exclude: Mapping[str, tuple[str, ...]], *, strict: bool = True
) -> np.ndarray:
    """Which cells `data.exclude` leaves out: boolean `[cells]`.

    Args:
        obs: the AnnData's `obs`.
        exclude: obs column -> values.
        strict: whether each column and value has to occur. Another file than the one the filter
            was written for need not hold what it leaves out.

    Raises:
        UserError: a column or a value of the filter does not occur, a label that looks the same
            as a value is not named too, or no cell is left.
    """
    out = np.zeros(len(obs), dtype=bool)
    for column, values in exclude.items():
        if column not in obs:
            if strict:
                unknown = unknown_name("obs column in data.exclude", column, obs.columns)
                raise UserError(f"{unknown} data.exclude.{column}=null excludes nothing by it.")
            continue
        labels = excluded_labels(obs, column)
        present = set(labels)
        for value in values:
            if strict and value not in present:
                raise unknown_name(f"value of {column!r} in data.exclude", value, present)
            out |= labels == value
        refuse_half_named(f"data.exclude.{column}", values, present)
    if len(obs) and out.all():
        raise UserError(f"data.exclude={dict(exclude)} leaves none of {len(obs)} cells.")
    return out
