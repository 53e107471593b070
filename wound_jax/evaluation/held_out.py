"""Scores a model on held-out cells beside the baselines, stratum by stratum.

A stratum is one (cell type, timepoint, condition) with enough cells in both arms. Whatever is
learned here (genes, components, baselines) is learned on training cells only. Strata that are too
small are listed, never dropped in silence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wound_jax.config.schema import EvaluationConfig
from wound_jax.data.days import day_of
from wound_jax.data.groups import Group, timepoint_or_none
from wound_jax.data.prepare import CellTable, PreparedData, plan_group
from wound_jax.data.spec import DataSpec
from wound_jax.errors import UserError
from wound_jax.evaluation.baselines import Baseline, fit_baselines
from wound_jax.evaluation.context import ScoreContext, fit_context
from wound_jax.evaluation.metrics import score
from wound_jax.evaluation.strata import Stratum
from wound_jax.evaluation.table import summarise
from wound_jax.inference import Predictor, Request

# What `pearson_delta_top100` looks at.
TOP_GENES = 100
# Cells in each arm of a training stratum that baselines and genes are fitted on; below the
# threshold for scoring, so that the few treated cells of a few-shot type still teach its own shift.
_MIN_TRAINING_CELLS = 10


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


@dataclass(frozen=True)
class Yardstick:
    """What a score needs from the training cells: genes, components, fitted baselines."""

    context: ScoreContext
    baselines: dict[str, Baseline]


@dataclass(frozen=True)
class ScoredStratum:
    """A held-out stratum, its prediction, and its scores."""

    stratum: Stratum
    predicted: np.ndarray
    scores: dict


def fit_yardstick(data: PreparedData, config: EvaluationConfig, seed: int) -> Yardstick:
    """Fits genes, components and baselines on the training cells."""
    groups, _ = data.groups("train")
    planned = merge_groups(groups)
    # Fewer cells give shifts that are mostly noise, and each stratum counts alike.
    large = [stratum for stratum in planned if stratum.smaller_arm >= _MIN_TRAINING_CELLS]
    training = [stratum.cells(data.cells) for stratum in large or planned]
    context = fit_context(
        training,
        data.cells.expression[data.split.training_cells],
        n_pcs=config.n_pcs,
        n_top_genes=TOP_GENES,
        seed=seed,
    )
    non_negative = bool(min(stratum.control.min() for stratum in training) >= 0.0)
    return Yardstick(context, fit_baselines(training, non_negative))


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
    groups, orphans = data.groups(part)
    strata, small = [], merge_groups(orphans)
    for stratum in merge_groups(groups):
        (strata if stratum.smaller_arm >= config.min_cells else small).append(stratum)
    if not strata:
        raise UserError(
            f"no stratum of the {part} cells has evaluation.min_cells={config.min_cells} cells in "
            f"both arms (largest: {_largest(small)}); lower it, or hold out more."
        )
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
    predicted = iter(predictor.predict(table.features, animals, requests, table.scalars))
    return [np.concatenate([next(predicted) for _ in stratum.groups]) for stratum in strata]


def evaluate(
    predictor: Predictor,
    data: PreparedData,
    yardstick: Yardstick,
    config: EvaluationConfig,
    part: str = "test",
) -> tuple[dict, list[ScoredStratum]]:
    """Scores a model and the baselines on one part of the split.

    Args:
        predictor: the model.
        data: the cells and their split.
        yardstick: from `fit_yardstick` on the same data.
        config: thresholds.
        part: "train", "val" or "test".

    Returns:
        The content of `eval/metrics.json`, and the scored strata for pictures.

    Raises:
        UserError: no stratum of that part has enough cells.
    """
    strata, small = plan_strata(data, config, part)
    predicted = predict_strata(predictor, data.spec, data.cells, strata)
    scored = [
        _score(stratum.cells(data.cells), cells, yardstick)
        for stratum, cells in zip(strata, predicted, strict=True)
    ]
    rows = [one.scores for one in scored]
    result = {
        "split": _describe(data, part),
        "strata": rows,
        "skipped": [_skipped(stratum) for stratum in small],
        "summary": summarise(rows),
    }
    return result, scored


def _score(stratum: Stratum, predicted: np.ndarray, yardstick: Yardstick) -> ScoredStratum:
    baselines = {
        name: score(stratum, baseline.predict(stratum), yardstick.context)
        for name, baseline in yardstick.baselines.items()
    }
    scores = {
        "cell_type": stratum.cell_type,
        "timepoint": stratum.timepoint,
        "perturbation": stratum.perturbation,
        "n_control": stratum.n_control,
        "n_treated": stratum.n_treated,
        "model": score(stratum, predicted, yardstick.context),
        "baselines": baselines,
    }
    return ScoredStratum(stratum, predicted, scores)


def _describe(data: PreparedData, part: str) -> dict:
    """The part that was scored: kind of split, animals, whether it is leaky."""
    split = data.split
    animals = sorted(set(data.cells.annotations.animal[split.treated[part]]) - {""})
    return {
        "kind": split.kind,
        "part": part,
        "leaky": split.leaky,
        "animals": animals,
        "n_animals": len(animals),
        "shared_controls": split.shared_controls(part),
        "data_fingerprint": data.fingerprint,
    }


def _skipped(stratum: PlannedStratum) -> dict:
    return {
        "cell_type": stratum.cell_type,
        "timepoint": timepoint_or_none(stratum.timepoint),
        "perturbation": stratum.condition,
        "n_control": len(stratum.controls),
        "n_treated": len(stratum.targets),
    }


def _largest(strata: Sequence[PlannedStratum]) -> str:
    if not strata:
        return "there are none"
    best = max(strata, key=lambda stratum: stratum.smaller_arm)
    return f"{best.cell_type}, {len(best.controls)} control and {len(best.targets)} treated cells"
