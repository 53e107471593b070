"""Metrics that compare strata with each other: does a prediction fit its own stratum best?

Owns the two groupings. Perturbations are told apart within a cell type: its strata at all
timepoints and under all perturbations, as cell-eval labels them (`Burn_day10`, `Burn_day14`, ...).
Cell types are told apart within a timepoint and perturbation. Where a group is too small for a
comparison the value is NaN.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist

from wound_jax.data.strata import Stratum
from wound_jax.evaluation.distances import mean_distances
from wound_jax.evaluation.metrics.comparison import (
    Comparison,
    Comparisons,
    RealStratum,
    once_for_all,
)
from wound_jax.evaluation.metrics.profiles import correlation
from wound_jax.evaluation.metrics.registry import set_metric

Deltas = Float[np.ndarray, "strata genes"]
Values = Float[np.ndarray, " sets"]

# Against the distance it is a difference of: a smaller energy distance is rounding of float32.
_ZERO_ENERGY = 1e-5
# The correlation of two points is 1 or -1 whatever they are.
_FEWEST_TO_CORRELATE = 3


@set_metric("type_retrieval", best_value=1.0)
def type_retrieval(comparisons: Comparisons) -> Values:
    """Whether a type's predicted change is nearest to the true change of that type; a share.

    1 where cos(delta P of the type, delta T of a type) is largest for the type itself, among the
    types at the same timepoint under the same perturbation; else 0, also for ties and for a
    predicted delta of zero. Chance is 1 / number of types; NaN for a type on its own.
    """

    def found(predicted: Deltas, true: Deltas) -> Values:
        cosines = _unit(predicted) @ _unit(true).T
        own = np.diag(cosines).copy()
        np.fill_diagonal(cosines, -np.inf)
        return (own > cosines.max(axis=1)).astype(float)

    return _in_groups(comparisons, lambda s: (s.timepoint, s.perturbation), found)


@set_metric("discrimination_score_l1", best_value=1.0)
def discrimination_l1(comparisons: Comparisons) -> Values:
    """How many other perturbations' true changes lie nearer to the predicted one; 1 for none.

    1 - (strata of the cell type whose delta T lies nearer to delta P than its own) / (their
    number, with itself), by the sum of absolute differences over genes; ties count half. Chance
    is 1/2 + 1/(2 number). `discrimination_score_l1` of cell-eval 0.8.2, which breaks ties by
    chance. NaN for a type with a single stratum.
    """
    return _discrimination(comparisons, lambda p, t: cdist(p, t, "cityblock"))


@set_metric("discrimination_score_l2", best_value=1.0)
def discrimination_l2(comparisons: Comparisons) -> Values:
    """`discrimination_score_l1` by the Euclidean distance."""
    return _discrimination(comparisons, lambda p, t: cdist(p, t, "euclidean"))


@set_metric("discrimination_score_cosine", best_value=1.0)
def discrimination_cosine(comparisons: Comparisons) -> Values:
    """`discrimination_score_l1` by the cosine distance; a delta of zero is 1 from all."""
    return _discrimination(comparisons, lambda p, t: 1 - _unit(p) @ _unit(t).T)


@set_metric("pearson_edistance", best_value=1.0)
def pearson_edistance(comparisons: Comparisons) -> Values:
    """Correlation over perturbations of predicted and true size of effect, one value a cell type.

    corr(E^2(P, C), E^2(T, C)) over the strata of a type, with E^2 = 2 E|X-C| - E|X-X'| - E|C-C'| on
    all genes, `pearson_edistance` of cell-eval 0.8.2. Its E^2 counts a cell's pair with itself and
    so grows as the cells get fewer; strata of unequal size correlate by that alone. It asks for
    sizes, not directions. NaN for a type with fewer than three strata.
    """
    groups = comparisons.grouped(lambda stratum: stratum.cell_type)
    groups = [group for group in groups if len(group) >= _FEWEST_TO_CORRELATE]
    chosen = [comparisons[i] for group in groups for i in group]
    real = once_for_all([comparison.real for comparison in chosen], _real_energies)
    predicted = _predicted_energies(chosen, [energies.of_control for energies in real])
    values = np.full(len(comparisons), np.nan)
    start = 0
    for group in groups:
        places = slice(start, start + len(group))
        true = np.array([energies.effect for energies in real[places]])
        values[group] = correlation(predicted[places], true)
        start = places.stop
    return values


class RealEnergies(NamedTuple):
    """Of the real cells of a stratum, on all genes, pairs of a cell with itself included.

    Attributes:
        of_control: E|C - C'|.
        effect: E^2(T, C).
    """

    of_control: float
    effect: float


def _real_energies(strata: Sequence[RealStratum]) -> list[RealEnergies]:
    samples = [real.samples(real.context.max_gene_cells) for real in strata]
    control, treated = ([sample[arm] for sample in samples] for arm in range(2))
    of_control, of_treated = mean_distances(control, control), mean_distances(treated, treated)
    effects = 2 * mean_distances(treated, control) - of_control - of_treated
    return [RealEnergies(*row) for row in np.stack([of_control, effects], axis=1)]


def _predicted_energies(comparisons: Sequence[Comparison], of_control: Sequence[float]) -> Values:
    """E^2(P, C) of each stratum; 0 where it is rounding."""
    control = [comparison.gene_samples[0] for comparison in comparisons]
    predicted = [comparison.gene_samples[2] for comparison in comparisons]
    between = mean_distances(predicted, control)
    energies = 2 * between - np.array(of_control) - mean_distances(predicted, predicted)
    return np.where(np.abs(energies) <= _ZERO_ENERGY * between, 0.0, energies)


def _discrimination(
    comparisons: Comparisons, distances: Callable[[Deltas, Deltas], np.ndarray]
) -> Values:
    def score(predicted: Deltas, true: Deltas) -> Values:
        apart = distances(predicted, true)
        own = np.diag(apart)[:, None]
        # A stratum ties with itself, which is half a place too many.
        rank = (apart < own).sum(axis=1) + ((apart == own).sum(axis=1) - 1) / 2
        return 1 - rank / len(true)

    return _in_groups(comparisons, lambda stratum: stratum.cell_type, score)


def _in_groups(
    comparisons: Comparisons,
    key: Callable[[Stratum], Hashable],
    compute: Callable[[Deltas, Deltas], Values],
) -> Values:
    """A function of predicted and true deltas, group by group; NaN in groups of one."""
    values = np.full(len(comparisons), np.nan)
    for group in comparisons.grouped(key):
        if len(group) > 1:
            predicted = np.stack([_predicted_delta(comparisons[i]) for i in group])
            values[group] = compute(predicted, np.stack([comparisons[i].true_delta for i in group]))
    return values


def _predicted_delta(comparison: Comparison) -> Float[np.ndarray, " genes"]:
    """The predicted delta; exactly 0 where it is 0 up to rounding."""
    delta = comparison.predicted_delta
    return np.zeros_like(delta) if comparison.predicts_no_change else delta


def _unit(deltas: Deltas) -> Deltas:
    """Rows scaled to length one; rows of zeros stay zero."""
    norms = np.linalg.norm(deltas, axis=1, keepdims=True)
    return deltas / np.where(norms == 0, 1.0, norms)
