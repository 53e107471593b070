"""The mean treated cell of the labels, corrected for how the control cells differ from training.

Owns the regression between covariate-only prediction and mean shift. With C_l, T_l the mean cells
of the training strata most like stratum s by label (as for `type_timepoint_mean_shift`),

    wanted mean = T_l + slope (mean C_s - C_l),     0 <= slope <= 1

A slope of 1 is the mean shift: all that sets the control cells apart is kept. A slope of 0 takes it
for noise, which it is where cells or animals are few, and the control cells are moved to the mean
of the treated training cells. Unlike `covariate_only` it keeps the spread of the control cells.
"""

import numpy as np

from wound_jax.evaluation.baselines.mean_shifts import type_timepoint_mean
from wound_jax.evaluation.baselines.profiles import Profiles, Shifts, WantedShifts
from wound_jax.evaluation.baselines.rules import shift_rule

_SLOPES = tuple(np.linspace(1.0, 0.0, 21))


@shift_rule("regressed_mean_shift", settings=_SLOPES)
def regressed_mean_shift(
    training: Profiles, shifts: Shifts, wanted: Profiles, slope: float
) -> WantedShifts:
    """The shift of type and timepoint, less what sets the control cells apart from training."""
    apart = wanted.control - type_timepoint_mean(training, training.control, wanted)
    return type_timepoint_mean(training, shifts, wanted) - (1.0 - slope) * apart
