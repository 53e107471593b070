"""The unit of evaluation: one cell type, at one timepoint, under one perturbation.

Owns the record of a stratum's real cells. Metrics are computed per stratum and then averaged over
strata with equal weight, so a frequent cell type counts no more than a rare one.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Shaped

from wound_jax.errors import UserError


@dataclass(frozen=True, eq=False)
class Stratum:
    """Control and treated cells of one (cell type, timepoint, perturbation).

    Two strata are equal only if they are the same object; compare `key` for the label.

    Attributes:
        cell_type: label of the cell type.
        timepoint: label of the timepoint; None where the data have none.
        control: float [cells, genes], the matched control cells.
        treated: float [targets, genes], the measured treated cells. May be empty, for a type
            whose treated cells are all held out.
        perturbation: label of the perturbation.
        control_animals: [cells], the animal of each control cell; None where unknown.
        treated_animals: [targets], the animal of each treated cell; None where unknown.

    Raises:
        UserError: the matrices disagree in their genes, there is no control cell, or the animals
            do not match the cells.
    """

    cell_type: str
    timepoint: str | None
    control: Float[np.ndarray, "cells genes"]
    treated: Float[np.ndarray, "targets genes"]
    perturbation: str
    control_animals: Shaped[np.ndarray, " cells"] | None = None
    treated_animals: Shaped[np.ndarray, " targets"] | None = None

    def __post_init__(self) -> None:
        shapes = f"control {self.control.shape}, treated {self.treated.shape}"
        if self.control.ndim != 2 or self.treated.ndim != 2:
            raise UserError(f"stratum {self.key}: {shapes}; expected two [cells, genes] matrices.")
        if self.control.shape[1] != self.treated.shape[1]:
            raise UserError(
                f"stratum {self.key}: {shapes}; expected the same genes in the same order. "
                "Take both from one matrix."
            )
        if not self.n_control:
            raise UserError(
                f"stratum {self.key} has no control cell; expected at least one. Leave it out or "
                "match controls on fewer columns (data.match_on)."
            )
        _check_animals(self.key, "control", self.n_control, self.control_animals)
        _check_animals(self.key, "treated", self.n_treated, self.treated_animals)

    @property
    def key(self) -> str:
        """Label of the stratum, "type | timepoint | perturbation"; absent parts are left out."""
        parts = (self.cell_type, self.timepoint, self.perturbation)
        return " | ".join(part for part in parts if part is not None)

    @property
    def n_control(self) -> int:
        """Number of control cells."""
        return self.control.shape[0]

    @property
    def n_treated(self) -> int:
        """Number of treated cells."""
        return self.treated.shape[0]

    @cached_property
    def control_mean(self) -> Float[np.ndarray, " genes"]:
        """Mean control cell, float64 [genes]."""
        return self.control.mean(axis=0, dtype=np.float64)

    @cached_property
    def mean_delta(self) -> Float[np.ndarray, " genes"]:
        """Mean treated minus mean control cell, float64 [genes]; needs treated cells."""
        return self.treated.mean(axis=0, dtype=np.float64) - self.control_mean


def _check_animals(key: str, arm: str, n_cells: int, animals: np.ndarray | None) -> None:
    """Refuse animal labels that do not belong to the cells one to one."""
    if animals is not None and animals.shape != (n_cells,):
        raise UserError(
            f"stratum {key}: {arm}_animals has shape {animals.shape}; expected ({n_cells},), one "
            f"label for each {arm} cell."
        )
