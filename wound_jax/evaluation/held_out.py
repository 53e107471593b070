"""What is scored, and what it is scored with: held-out strata, predictions, the yardstick.

A stratum is one (cell type, timepoint, condition) with enough cells in both arms. Whatever is
learned here (genes, components, baselines) is learned on training cells only. Strata that are too
small are listed, never dropped in silence; of very large ones a sample is drawn
(`evaluation.cells_per_arm`), so that cells on disk need not fit in memory.
"""

import dataclasses
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wound_jax.config.schema import EvaluationConfig
from wound_jax.data.cells import CellTable, PreparedData, plan_group
from wound_jax.data.days import day_of
from wound_jax.data.groups import Group, timepoint_or_none
from wound_jax.data.spec import DataSpec
from wound_jax.data.splits import PARTS
from wound_jax.errors import UserError
from wound_jax.evaluation.baselines import Baseline, fit_baselines
from wound_jax.evaluation.context import ScoreContext, cells_for_components, fit_context
from wound_jax.evaluation.strata import Stratum
from wound_jax.inference import ModelCells, Predictor, Request

# What `pearson_delta_top100` looks at.
TOP_GENES = 100
# Cells in each arm of a training stratum that baselines and genes are fitted on; below the
# threshold for scoring, so that the few treated cells of a few-shot type still teach its own shift.
_MIN_TRAINING_CELLS = 10
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

    def cells(self, table: CellTable) -> Stratum:
        """The stratum with its cells."""
        controls, targets = self.controls, self.targets
        return Stratum(
            cell_type=self.cell_type,
            timepoint=timepoint_or_none(self.timepoint),
            control=table.expression[controls],
            treated=table.expression[targets],
            perturbation=self.condition,
            control_animals=table.annotations.animal[controls],
            treated_animals=table.annotations.animal[targets],
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


@dataclass(frozen=True, eq=False)
class Yardstick:
    """What a score needs from the training cells.

    Attributes:
        context: genes and components.
        baselines: fitted, by name.
        data: the cells whose training part was used.
        planned: its strata that are large enough to learn from.
        kept: what evaluations found that no model changes, for the next model to use.
    """

    context: ScoreContext
    baselines: dict[str, Baseline]
    data: PreparedData
    planned: tuple[PlannedStratum, ...]
    kept: dict[Hashable, Any] = field(default_factory=dict)

    def training(self) -> list[Stratum]:
        """The training strata with their cells, copied out anew."""
        return [stratum.cells(self.data.cells) for stratum in self.planned]


def fit_yardstick(data: PreparedData, config: EvaluationConfig, seed: int) -> Yardstick:
    """Fits genes, components and baselines on the training cells.

    Args:
        data: the cells and their split.
        config: how many components.
        seed: of every subsample. Take the split's: runs of different seeds are then measured by
            one yardstick, and their differences are paired.
    """
    groups, _ = data.groups("train")
    merged = merge_groups(groups)
    # Fewer cells give shifts that are mostly noise, and each stratum counts alike.
    large = [stratum for stratum in merged if stratum.smaller_arm >= _MIN_TRAINING_CELLS]
    planned = tuple(_sampled(large or merged, data, config, "train"))
    training = [stratum.cells(data.cells) for stratum in planned]
    trained = data.split.training_cells
    context = fit_context(
        training,
        data.cells.expression[trained[cells_for_components(len(trained), seed)]],
        n_pcs=config.n_pcs,
        n_top_genes=TOP_GENES,
        seed=seed,
    )
    non_negative = bool(min(stratum.control.min() for stratum in training) >= 0.0)
    return Yardstick(context, fit_baselines(training, non_negative), data, planned)


def merge_groups(groups: Sequence[Group]) -> list[PlannedStratum]:
    """Groups of one (cell type, timepoint, condition) together, ordered by these."""
    merged: dict[tuple[str, str, str], list[Group]] = {}
    for group in groups:
        merged.setdefault((group.cell_type, group.timepoint, group.condition), []).append(group)
    return [PlannedStratum(*key, tuple(parts)) for key, parts in sorted(merged.items())]


def plan_strata(
    data: PreparedData, config: EvaluationConfig, part: str
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
    return _sampled(strata, data, config, part), small


def _sampled(
    strata: Sequence[PlannedStratum], data: PreparedData, config: EvaluationConfig, part: str
) -> list[PlannedStratum]:
    """The strata with as many cells as are scored or learnt from."""
    most = config.cells_per_arm or (CELLS_PER_ARM_ON_DISK if data.cells.on_disk else None)
    if most is None:
        return list(strata)
    # The same cells whatever the model and the seed, so that differences are paired.
    rng = np.random.default_rng(PARTS.index(part))
    return [stratum.sampled(most, rng) for stratum in strata]


def large_strata(
    data: PreparedData, config: EvaluationConfig, part: str
) -> tuple[list[PlannedStratum], list[PlannedStratum]]:
    """As `plan_strata`, where none may be large enough."""
    groups, orphans = data.groups(part)
    strata, small = [], merge_groups(orphans)
    for stratum in merge_groups(groups):
        (strata if stratum.smaller_arm >= config.min_cells else small).append(stratum)
    return strata, small


def predict_strata(
    predictor: Predictor, spec: DataSpec, table: CellTable, strata: Sequence[PlannedStratum]
) -> list[np.ndarray]:
    """Predicts all control cells of each stratum, rows in the order of `controls`."""
    animals = spec.animals.encode(table.annotations.animal)
    groups = [group for stratum in strata for group in stratum.groups]
    planned = [plan_group(group, spec) for group in groups]
    requests = [
        Request(p.group.controls, p.perturbation, p.timepoint, day_of(p.group.timepoint))
        for p in planned
    ]
    cells = ModelCells(table.features, animals, table.scalars)
    predicted = iter(predictor.predict(cells, requests))
    return [np.concatenate([next(predicted) for _ in stratum.groups]) for stratum in strata]


def _largest(strata: Sequence[PlannedStratum]) -> str:
    if not strata:
        return "there are none"
    best = max(strata, key=lambda stratum: stratum.smaller_arm)
    return f"{best.cell_type}, {len(best.controls)} control and {len(best.targets)} treated cells"
