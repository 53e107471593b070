"""Strata: one cell type, at one timepoint, under one perturbation; the unit of evaluation.

Owns the two forms of it: `PlannedStratum`, the positions of its cells, and `Stratum`, the cells
themselves in memory. Metrics are computed per stratum and then averaged over strata with equal
weight, so a frequent cell type counts no more than a rare one. A stratum that is scored has enough
cells in both arms; those that are too small are listed, never dropped in silence. Of very large
ones a sample is drawn (`evaluation.cells_per_arm`), so that cells on disk need not fit in memory.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Shaped

from wound_jax.data.cells import Cells, PreparedData
from wound_jax.data.groups import Group, timepoint_or_none
from wound_jax.data.splits import PARTS
from wound_jax.errors import UserError
from wound_jax.evaluation.settings import EvaluationSettings


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
        control_replicates: [cells], the replicate of each control cell; None where unknown.
        treated_replicates: [targets], the replicate of each treated cell; None where unknown.

    Raises:
        UserError: the matrices disagree in their genes, there is no control cell, or the replicates
            do not match the cells.
    """

    cell_type: str
    timepoint: str | None
    control: Float[np.ndarray, "cells genes"]
    # What fits what is asked on construction, in words for the user: `_` leaves it to that.
    treated: Float[np.ndarray, "targets _genes"]
    perturbation: str
    control_replicates: Shaped[np.ndarray, " _cells"] | None = None
    treated_replicates: Shaped[np.ndarray, " _targets"] | None = None

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
        _check_replicates(self.key, "control", self.n_control, self.control_replicates)
        _check_replicates(self.key, "treated", self.n_treated, self.treated_replicates)

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


def _check_replicates(key: str, arm: str, n_cells: int, replicates: np.ndarray | None) -> None:
    """Refuse replicate labels that do not belong to the cells one to one."""
    if replicates is not None and replicates.shape != (n_cells,):
        raise UserError(
            f"stratum {key}: {arm}_replicates has shape {replicates.shape}; expected ({n_cells},), "
            f"one label for each {arm} cell."
        )


# Cells of each arm of a stratum, at most, where the cells lie on disk and the config names none.
CELLS_PER_ARM_ON_DISK = 512


# Compared by identity: arrays have no single truth value.
@dataclass(frozen=True, eq=False)
class PlannedStratum:
    """A stratum before its cells are copied out: its groups, merged."""

    cell_type: str
    timepoint: str
    condition: str
    groups: tuple[Group, ...]

    @property
    def controls(self) -> np.ndarray:
        """Positions of its control cells, group after group."""
        return np.concatenate([group.controls for group in self.groups])

    @property
    def targets(self) -> np.ndarray:
        """Positions of its treated cells."""
        return np.concatenate([group.targets for group in self.groups])

    @property
    def smaller_arm(self) -> int:
        """How many cells the smaller of its arms has."""
        return min(len(self.controls), len(self.targets))

    def sampled(self, n: int, rng: np.random.Generator) -> "PlannedStratum":
        """The stratum with at most `n` cells in each arm, each cell with the same chance."""
        arms = {
            arm: _sample([getattr(group, arm) for group in self.groups], n, rng)
            for arm in ("controls", "targets")
        }
        pairs = zip(self.groups, *arms.values(), strict=True)
        groups = tuple(
            dataclasses.replace(group, controls=controls, targets=targets)
            for group, controls, targets in pairs
        )
        return dataclasses.replace(self, groups=groups)

    def cells(self, table: Cells) -> Stratum:
        """The stratum with its cells."""
        controls, targets = self.controls, self.targets
        return Stratum(
            cell_type=self.cell_type,
            timepoint=timepoint_or_none(self.timepoint),
            control=table.expression[controls],
            treated=table.expression[targets],
            perturbation=self.condition,
            control_replicates=table.annotations.replicate[controls],
            treated_replicates=table.annotations.replicate[targets],
        )


def _sample(parts: list[np.ndarray], n: int, rng: np.random.Generator) -> list[np.ndarray]:
    """`n` of the cells of all parts, each part in its order; all where there are no more."""
    total = sum(len(part) for part in parts)
    if total <= n:
        return parts
    kept = np.zeros(total, dtype=bool)
    kept[rng.choice(total, n, replace=False)] = True
    ends = np.cumsum([len(part) for part in parts])[:-1]
    return [part[keep] for part, keep in zip(parts, np.split(kept, ends), strict=True)]


def merge_groups(groups: Sequence[Group]) -> list[PlannedStratum]:
    """Groups of one (cell type, timepoint, condition) together, ordered by these."""
    merged: dict[tuple[str, str, str], list[Group]] = {}
    for group in groups:
        merged.setdefault((group.cell_type, group.timepoint, group.condition), []).append(group)
    return [PlannedStratum(*key, tuple(parts)) for key, parts in sorted(merged.items())]


def plan_strata(
    data: PreparedData, config: EvaluationSettings, part: str
) -> tuple[list[PlannedStratum], list[PlannedStratum]]:
    """The strata of one part of the split that can be scored, and those that are too small.

    Args:
        data: the cells and their split.
        config: the threshold.
        part: "train", "val" or "test".

    Raises:
        UserError: no stratum has enough cells.
    """
    strata, small = large_strata(data, config, part)
    if not strata:
        raise UserError(
            f"no stratum of the {part} cells has evaluation.min_cells={config.min_cells} cells in "
            f"both arms (largest: {_largest(small)}); lower it, or hold out more."
        )
    return sampled_strata(strata, data, config, part), small


def sampled_strata(
    strata: Sequence[PlannedStratum], data: PreparedData, config: EvaluationSettings, part: str
) -> list[PlannedStratum]:
    """The strata with as many cells as are scored or learnt from."""
    most = config.cells_per_arm or (CELLS_PER_ARM_ON_DISK if data.cells.on_disk else None)
    if most is None:
        return list(strata)
    # The same cells whatever the model and the seed, so that differences are paired.
    rng = np.random.default_rng(PARTS.index(part))
    return [stratum.sampled(most, rng) for stratum in strata]


def large_strata(
    data: PreparedData, config: EvaluationSettings, part: str
) -> tuple[list[PlannedStratum], list[PlannedStratum]]:
    """As `plan_strata`, where none may be large enough."""
    groups, orphans = data.groups(part)
    strata, small = [], merge_groups(orphans)
    for stratum in merge_groups(groups):
        (strata if stratum.smaller_arm >= config.min_cells else small).append(stratum)
    return strata, small


def _largest(strata: Sequence[PlannedStratum]) -> str:
    if not strata:
        return "there are none"
    best = max(strata, key=lambda stratum: stratum.smaller_arm)
    return f"{best.cell_type}, {len(best.controls)} control and {len(best.targets)} treated cells"
