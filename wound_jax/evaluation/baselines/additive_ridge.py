"""The shift as a sum of a term for the cell type and a term for the timepoint.

Owns the additive model of one-hot labels, for each perturbation on its own,

    shift(type, timepoint) = offset + u_type + v_timepoint

fitted by ridge regression over the training strata, the offset without penalty. A type or timepoint
that training lacks has no term. It predicts a combination that training lacks from its parts.
"""

import itertools

import numpy as np
from jaxtyping import Float

from wound_jax.evaluation.baselines.profiles import Profiles, Shifts, WantedShifts, same
from wound_jax.evaluation.baselines.rules import shift_rule
from wound_jax.evaluation.baselines.smoothing import smoothing_weights

# Variance of the terms over that of what they leave unexplained: 0 leaves a term out.
_RATIOS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0, 1e4)


@shift_rule("additive_ridge", settings=tuple(itertools.product(_RATIOS, _RATIOS)))
def additive_ridge(
    training: Profiles, shifts: Shifts, wanted: Profiles, ratios: tuple[float, float]
) -> WantedShifts:
    """Ridge regression of the shift on one-hot cell type and timepoint."""
    among, to_wanted = (
        _covariance(training, training, ratios),
        _covariance(wanted, training, ratios),
    )
    return smoothing_weights(among, to_wanted, penalty=1.0) @ shifts


def _covariance(
    wanted: Profiles, training: Profiles, ratios: tuple[float, float]
) -> Float[np.ndarray, "wanted strata"]:
    """Covariance of the sums of terms: only equal labels have a term in common."""
    of_type, of_timepoint = ratios
    return of_type * same(wanted.cell_type, training.cell_type) + of_timepoint * same(
        wanted.timepoint, training.timepoint
    )
