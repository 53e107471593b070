"""The shift by partial least squares on the principal components of the mean control cell.

Owns PLS regression (Wold, Sjostrom and Eriksson 2001, Chemom. Intell. Lab. Syst. 58, 109-130).
With X the centred control means of the training strata and Y their centred shifts, one direction
after the other,

    w = argmax |Y' X w|, |w| = 1,     t = X w,     X <- X - t t' X / t't,

and the shift is the regression of Y on the first few t, which are orthogonal. No direction is the
global mean shift. Directions of control means that no shift goes along with come last.
"""

import numpy as np

from wound_jax.evaluation.baselines.profiles import Profiles, Shifts, WantedShifts
from wound_jax.evaluation.baselines.rules import shift_rule

_MAX_DIRECTIONS = 8
# Squared covariances below this, against the first, are rounding.
_ROUNDING = 1e-12


@shift_rule("pls_pca", settings=range(_MAX_DIRECTIONS + 1))
def pls_pca(
    training: Profiles, shifts: Shifts, wanted: Profiles, n_directions: int
) -> WantedShifts:
    """PLS of the shift on the components of the mean control cell, unscaled."""
    center, mean = training.scores.mean(axis=0), shifts.mean(axis=0)
    known, new = training.scores - center, wanted.scores - center
    likeness = (shifts - mean) @ (shifts - mean).T
    weights, first = np.zeros((len(wanted), len(training))), 0.0
    for _ in range(n_directions):
        covariances, directions = np.linalg.eigh(known.T @ likeness @ known)
        first = first or covariances[-1]
        if covariances[-1] <= _ROUNDING * first:
            break
        t, t_new = known @ directions[:, -1], new @ directions[:, -1]
        weights += np.outer(t_new, t / (t @ t))
        loading = t @ known / (t @ t)
        known, new = known - np.outer(t, loading), new - np.outer(t_new, loading)
    return mean + weights @ (shifts - mean)
