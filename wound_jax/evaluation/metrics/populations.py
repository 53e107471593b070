"""Metrics of whole populations: how far the predicted cells are from the treated ones as sets.

Distances are taken between sets of equally many cells (`Comparison.samples`). What they cost
between real cells is paid once a stratum. Except for the legacy figure the space is that of the
training components (`ScoreContext.project`).

Among them is one from optimal transport, the debiased Sinkhorn divergence

    S(P, T) = OT(P, T) - OT(P, P)/2 - OT(T, T)/2,       cost |x - y|^2 / 2

(Feydy et al. 2019, arXiv 1810.08278), by the solver of the loss of the same name. The loss takes
its temperature from the sets it compares; here it comes from real cells, so that all predictions
of a stratum are measured alike.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy.spatial.distance import pdist

from wound_jax.evaluation.distances import (
    nearest_cosine_distances,
    pair_means,
    run_padded,
    self_pair_means,
)
from wound_jax.evaluation.metrics.comparison import Comparisons, RealStratum, once_for_all
from wound_jax.evaluation.metrics.registry import set_metric
from wound_jax.losses.distances import as_measures
from wound_jax.losses.sinkhorn import sinkhorn_divergence

# Cells of each arm that the width of the kernel comes from, at most.
_WIDTH_CELLS = 256


class RealPairs(NamedTuple):
    """Means over pairs of real cells of a stratum.

    Attributes:
        treated_distance: E|T - T'|.
        treated_kernel: E k(T, T').
        effect: E^2(C, T).
    """

    treated_distance: float
    treated_kernel: float
    effect: float


class SetDistances(NamedTuple):
    """Distances of every stratum, float64 [sets].

    Attributes:
        remaining: E^2(P, T).
        effect: E^2(C, T).
        mmd: MMD^2(P, T).
    """

    remaining: Float[np.ndarray, " sets"]
    effect: Float[np.ndarray, " sets"]
    mmd: Float[np.ndarray, " sets"]


@set_metric("e_distance", best_value=0.0)
def e_distance(comparisons: Comparisons) -> Float[np.ndarray, " sets"]:
    """Unbiased squared energy distance E^2(P, T) on the training components.

    E^2 = 2 E|P-T| - E|P-P'| - E|T-T'| with Euclidean |.|, equally many cells of both, pairs of a
    cell with itself left out (Szekely and Rizzo 2013, J. Stat. Plan. Inference 143, eq. 2.1). Not
    comparable with the E-distance of pertpy or scperturb, which squares |.|, nor with that of
    cell-eval, which is biased and on all genes (`pearson_edistance`).
    """
    return comparisons.once(set_distances).remaining


@set_metric("e_distance_control", best_value=None)
def e_distance_control(comparisons: Comparisons) -> Float[np.ndarray, " sets"]:
    """E^2(C, T), the size of the true effect, from the same cells and space as `e_distance`."""
    return comparisons.once(set_distances).effect


@set_metric("e_distance_ratio", best_value=0.0)
def e_distance_ratio(comparisons: Comparisons) -> Float[np.ndarray, " sets"]:
    """E^2(P, T) / E^2(C, T): 0 is perfect, 1 is as far off as the identity.

    Slightly below 0 is chance, as the estimate is unbiased. NaN where E^2(C, T) <= 0: no effect
    can be told from sampling, and a ratio to it has no meaning.
    """
    found = comparisons.once(set_distances)
    told = found.effect > 0
    return np.where(told, found.remaining / np.where(told, found.effect, 1.0), np.nan)


@set_metric("mmd2_rbf", best_value=0.0)
def mmd2_rbf(comparisons: Comparisons) -> Float[np.ndarray, " sets"]:
    """Unbiased squared maximum mean discrepancy MMD^2(P, T) on the training components.

    E k(P,P') + E k(T,T') - 2 E k(P,T), k(x,y) = exp(-|x-y|^2 / (2 w^2)), the U-statistic of Gretton
    et al. (2012, J. Mach. Learn. Res. 13, eq. 3). One width w a stratum by their median heuristic:
    the median distance among its real cells, control and treated together (at most 256 of each).
    At most 2, about 0 for two samples of one distribution. So wide a kernel sees the mean far
    better than the spread (`variance_ratio`).
    """
    return comparisons.once(set_distances).mmd


@set_metric(
    "legacy_nn_cosine", best_value=None, trap="it improves when predictions collapse to one cell"
)
def legacy_nn_cosine(comparisons: Comparisons) -> Float[np.ndarray, " sets"]:
    """Mean over predicted cells of the cosine distance to the nearest treated cell, on all genes.

    mean over P of min over T of (1 - cos), equally many cells of both (`Comparison.gene_samples`).
    Kept for comparison with published figures and not ranked: it improves when predictions
    collapse to one mean cell, which lies closer in angle to any sparse cell than another real cell
    does. Read it beside `legacy_nn_cosine_control`.
    """
    samples = [comparison.gene_samples for comparison in comparisons]
    return nearest_cosine_distances([s[2] for s in samples], [s[1] for s in samples])


@set_metric("legacy_nn_cosine_control", best_value=None)
def legacy_nn_cosine_control(comparisons: Comparisons) -> list[float]:
    """`legacy_nn_cosine` of the control cells themselves: what the identity scores."""
    return once_for_all([comparison.real for comparison in comparisons], _control_nn_cosine)


def set_distances(comparisons: Comparisons) -> SetDistances:
    """The distances behind `e_distance` and `mmd2_rbf`, of all strata in one go."""
    real = once_for_all([comparison.real for comparison in comparisons], _real_pairs)
    widths = [comparison.real.once(kernel_width) for comparison in comparisons]
    predicted = [comparison.projected[2] for comparison in comparisons]
    between = pair_means(predicted, [c.projected[1] for c in comparisons], widths)
    within = self_pair_means(predicted, widths)
    treated_distance, treated_kernel, effect = np.array(real).reshape(-1, 3).T
    return SetDistances(
        remaining=2 * between.distance - within.distance - treated_distance,
        effect=effect,
        mmd=within.kernel + treated_kernel - 2 * between.kernel,
    )


def kernel_width(real: RealStratum) -> float:
    """The median distance among real cells; 1 where they all coincide."""
    pairs = zip(real.projected, real.first_drawn(_WIDTH_CELLS), strict=True)
    cells = np.concatenate([arm[chosen] for arm, chosen in pairs])
    return float(np.median(pdist(cells))) or 1.0


def _real_pairs(strata: Sequence[RealStratum]) -> list[RealPairs]:
    widths = [real.once(kernel_width) for real in strata]
    control, treated = ([real.projected[arm] for real in strata] for arm in range(2))
    between = pair_means(control, treated, widths).distance
    of_control = self_pair_means(control, widths).distance
    of_treated = self_pair_means(treated, widths)
    effects = 2 * between - of_control - of_treated.distance
    return [RealPairs(*row) for row in np.stack([*of_treated, effects], axis=1)]


def _control_nn_cosine(strata: Sequence[RealStratum]) -> list[float]:
    samples = [real.samples(real.context.max_gene_cells) for real in strata]
    return list(nearest_cosine_distances([s[0] for s in samples], [s[1] for s in samples]))


# Cells of each set, at most: the cost of an iteration grows with their square.
_CELLS = 256


# Much colder, a few hundred cells in 50 dimensions are further from other cells of their own
# distribution than the mean cell is, repeated.
_RELATIVE_TEMPERATURE = 0.3


_THRESHOLD = 1e-4


_MAX_ITERATIONS = 500


@set_metric("sinkhorn_divergence", best_value=0.0)
def sinkhorn(comparisons: Comparisons) -> Float[np.ndarray, " sets"]:
    """Debiased Sinkhorn divergence S(P, T) on the training components.

    In their squared unit, equally many cells of both, at most 256. The temperature is 0.3 times
    the mean cost between the real control and treated cells of the stratum. Two samples of one
    distribution lie above 0, the further the fewer cells there are. It sees the mean far better
    than the spread (`variance_ratio`). NaN where the iteration does not converge.
    """
    predicted, treated, temperatures = [], [], []
    for comparison in comparisons:
        of_control, of_treated = comparison.real.first_drawn(_CELLS)
        predicted.append(comparison.projected[2][of_control])
        treated.append(comparison.projected[1][of_treated])
        temperatures.append(comparison.real.once(temperature))
    found = run_padded(_divergence, predicted, treated, np.array(temperatures))
    value, converged = np.array(found, dtype=np.float64).reshape(len(found), 2).T
    return np.where(converged > 0, value, np.nan)


def temperature(real: RealStratum) -> float:
    """0.3 times the mean over real control and treated cells of |C - T|^2 / 2."""
    control, treated = real.projected
    # mean |C - T|^2 = |mean C - mean T|^2 + tr cov C + tr cov T, without a matrix of pairs.
    delta = np.square(control.mean(axis=0) - treated.mean(axis=0)).sum()
    cost = (delta + control.var(axis=0).sum() + treated.var(axis=0).sum()) / 2
    return float(_RELATIVE_TEMPERATURE * cost)


def _divergence(
    x: Float[Array, "cells dims"],
    y: Float[Array, "targets dims"],
    x_mask: Bool[Array, " cells"],
    y_mask: Bool[Array, " targets"],
    temperature: Float[Array, ""],
) -> Float[Array, " 2"]:
    """The divergence of one couple of sets, and 1 where it converged."""
    sets = as_measures(x[None], y[None], x_mask[None], y_mask[None])
    found = sinkhorn_divergence(
        sets, temperature[None], threshold=_THRESHOLD, max_iterations=_MAX_ITERATIONS
    )
    return jnp.concatenate([found.value, found.diagnostics["converged"]])
