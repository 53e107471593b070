"""The shift of a gene as a linear function of the gene's own control expression.

Owns one small regression for each gene g over the training strata s,

    shift_sg = a_g + b_g C_sg,     b_g = S_xy / (S_xx + penalty S)

with S_xx, S_xy the gene's sums of squares and products about its means over strata and S the mean
of S_xx over genes. An infinite penalty is the global mean shift; a slope of -1 says that treated
cells are alike whatever the control cells are.
"""

import numpy as np

from wound_jax.evaluation.baselines.profiles import Profiles, Shifts, WantedShifts
from wound_jax.evaluation.baselines.rules import shift_rule

_PENALTIES = tuple(np.logspace(3, -5, 25))


@shift_rule("gene_wise", settings=_PENALTIES)
def gene_wise(training: Profiles, shifts: Shifts, wanted: Profiles, penalty: float) -> WantedShifts:
    """Shrunken regression of each gene's shift on its control expression."""
    x_mean, y_mean = training.control.mean(axis=0), shifts.mean(axis=0)
    x, y = training.control - x_mean, shifts - y_mean
    s_xx, s_xy = np.square(x).sum(axis=0), (x * y).sum(axis=0)
    # The tiny number: where no gene varies over strata every slope is 0.
    slopes = s_xy / (s_xx + penalty * s_xx.mean() + np.finfo(np.float64).tiny)
    return y_mean + slopes * (wanted.control - x_mean)
