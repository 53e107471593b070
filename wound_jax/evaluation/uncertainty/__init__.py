"""How far the headline figures would move with other held-out replicates.

Owns the bootstrap of a mean over strata. With w_a the weight of replicate a in a draw,

    figure(w) = sum_s m_s(w) figure_s(w) / sum_s m_s(w),

where the cells of a replicate, and what is predicted from them, all carry its weight, and m_s is 1
unless timepoints are drawn as well. Cells of one replicate share its peculiarities, so counting
cells as independent gives intervals that are far too short. All methods of all runs meet the same
draws of the same held-out cells, so differences between them are paired.
"""

from wound_jax.evaluation.uncertainty.bootstrap import BOOTSTRAPPED, bootstrap, bootstrap_units
from wound_jax.evaluation.uncertainty.draws import Difference, Draws, average, between

__all__ = [
    "BOOTSTRAPPED",
    "Difference",
    "Draws",
    "average",
    "between",
    "bootstrap",
    "bootstrap_units",
]
