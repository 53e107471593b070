"""The metric from optimal transport: the debiased Sinkhorn divergence.

    S(P, T) = OT(P, T) - OT(P, P)/2 - OT(T, T)/2,       cost |x - y|^2 / 2

(Feydy et al. 2019, arXiv 1810.08278), by the solver of the loss of the same name. The loss takes
its temperature from the sets it compares; here it comes from real cells, so that all predictions
of a stratum are measured alike.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from wound_jax.evaluation.distances import run_padded
from wound_jax.evaluation.metrics.comparison import Comparisons, RealStratum
from wound_jax.evaluation.metrics.registry import set_metric
from wound_jax.losses.distances import as_measures
from wound_jax.losses.sinkhorn import sinkhorn_divergence

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
    shift = np.square(control.mean(axis=0) - treated.mean(axis=0)).sum()
    cost = (shift + control.var(axis=0).sum() + treated.var(axis=0).sum()) / 2
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
