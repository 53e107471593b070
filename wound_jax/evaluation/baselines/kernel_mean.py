"""The shift as a mean over training strata, weighted by likeness of the control cells.

Owns the kernel regression of Nadaraya (1964) and Watson (1964),

    shift(s) = sum_t w_t shift_t / sum_t w_t,   w_t = exp(-|z_s - z_t|^2 / (2 h^2 m^2))

with z the mean control cell on the training components and m^2 the mean squared distance between
training strata. The bandwidth h runs from infinity (the global mean shift) to the nearest stratum.
"""

import numpy as np
from jaxtyping import Float

from wound_jax.evaluation.baselines.profiles import Profiles, Shifts, WantedShifts
from wound_jax.evaluation.baselines.rules import shift_rule

_BANDWIDTHS = (np.inf, *np.geomspace(2.0, 0.05, 16))


@shift_rule("kernel_mean_shift", settings=_BANDWIDTHS)
def kernel_mean_shift(
    training: Profiles, shifts: Shifts, wanted: Profiles, bandwidth: float
) -> WantedShifts:
    """Mean shift weighted by a Gaussian of the distance between mean control cells."""
    among = _squared_distances(training.scores, training.scores)
    # Where all control means coincide any unit will do.
    scale = 2.0 * bandwidth**2 * (among.mean() or 1.0)
    to_wanted = _squared_distances(wanted.scores, training.scores)
    # Only ratios of weights count; the nearest stratum keeps the weight 1 at any bandwidth.
    weights = np.exp(-(to_wanted - to_wanted.min(axis=1, keepdims=True)) / scale)
    return weights @ shifts / weights.sum(axis=1, keepdims=True)


def _squared_distances(
    x: Float[np.ndarray, "wanted dims"], y: Float[np.ndarray, "strata dims"]
) -> Float[np.ndarray, "wanted strata"]:
    return np.square(x[:, None] - y[None, :]).sum(axis=-1)
