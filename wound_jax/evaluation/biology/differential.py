"""Which genes the treatment moves, with animals as the sample.

The mean cell of each animal is one observation, so that n is the number of animals and not of
cells. As animals are few, the variance of a gene is moderated by those of all genes (Smyth 2004,
Stat Appl Genet Mol Biol 3:3):

    s~^2 = (d0 s0^2 + d s^2) / (d0 + d),   t = difference / (s~ sqrt(v)),   d0 + d degrees

with d0 and s0^2 fitted to all genes' variances, v = 1/n_T + 1/n_C. Where both arms come from
the same animals it is their differences that are tested, v = 1/n.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import optimize, special, stats

from wound_jax.evaluation.biology.inputs import rows_by_animal
from wound_jax.evaluation.strata import Stratum

# Cells an animal must have in an arm for its mean to be an observation.
FEWEST_CELLS = 10
# Animals in each arm, or animals that have both arms.
_FEWEST_ANIMALS = 2
_FEWEST_PAIRS = 3


class Differential(NamedTuple):
    """The test of every gene of a stratum.

    Attributes:
        p_value: two-sided, [genes]; 1 for a gene that is constant.
        unit: what was sampled, "animals" or "cells".
    """

    p_value: Float[np.ndarray, " genes"]
    unit: str


def differential(stratum: Stratum) -> Differential:
    """Test treated against control cells.

    By animals where there are two in each arm (three that have both), each with at least
    `FEWEST_CELLS` cells in the arm; else Welch's t on cells, whose p-values are too small, as
    cells of one animal are no independent sample.

    Args:
        stratum: at least two cells in both arms.
    """
    control = _animal_means(stratum.control, stratum.control_animals)
    treated = _animal_means(stratum.treated, stratum.treated_animals)
    both = sorted(set(control) & set(treated))
    if len(both) >= _FEWEST_PAIRS:
        pairs = np.stack([treated[name] - control[name] for name in both])
        p = _moderated_p(
            pairs.mean(axis=0), pairs.var(axis=0, ddof=1), len(both) - 1, 1 / len(both)
        )
        return Differential(p, "animals")
    if both or min(len(control), len(treated)) < _FEWEST_ANIMALS:
        return Differential(_welch_p(stratum), "cells")
    c, t = (np.stack(list(means.values())) for means in (control, treated))
    degrees = len(c) + len(t) - 2
    within = ((len(c) - 1) * c.var(axis=0, ddof=1) + (len(t) - 1) * t.var(axis=0, ddof=1)) / degrees
    p = _moderated_p(t.mean(axis=0) - c.mean(axis=0), within, degrees, 1 / len(c) + 1 / len(t))
    return Differential(p, "animals")


def _animal_means(
    cells: Float[np.ndarray, "cells genes"], animals: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Mean cell of each animal, float64 [genes]."""
    rows = rows_by_animal(animals, FEWEST_CELLS)
    return {name: cells[place].mean(axis=0, dtype=np.float64) for name, place in rows.items()}


def _moderated_p(
    difference: Float[np.ndarray, " genes"],
    variance: Float[np.ndarray, " genes"],
    degrees: int,
    scale: float,
) -> Float[np.ndarray, " genes"]:
    """Two-sided p of the moderated t (module docstring).

    Args:
        difference: mean difference of each gene.
        variance: residual variance of each gene.
        degrees: its degrees of freedom, at least 1.
        scale: variance of the difference in units of `variance`.
    """
    varying = variance > 0
    prior_degrees, prior = fit_prior(variance[varying], degrees)
    if np.isinf(prior_degrees):
        moderated, total = np.full_like(variance, prior), np.inf
    else:
        total = prior_degrees + degrees
        moderated = (prior_degrees * prior + degrees * variance) / total
    # No gene knows more than all of them together (as limma has it).
    total = min(total, max(1, degrees * int(varying.sum())))
    error = np.sqrt(moderated * scale)
    t = np.divide(difference, error, out=np.zeros_like(difference), where=error > 0)
    return 2.0 * stats.t.sf(np.abs(t), total)


def fit_prior(variance: Float[np.ndarray, " genes"], degrees: int) -> tuple[float, float]:
    """Degrees d0 and scale s0^2 of the distribution that the genes' variances were drawn from.

    Moments of log s^2, whose distribution is s0^2 F(d, d0) (Smyth 2004, section 6.2).

    Args:
        variance: residual variances above 0.
        degrees: their degrees of freedom.

    Returns:
        d0 (infinite where the variances differ no more than by sampling) and s0^2; (0, 0), which
        moderates nothing, below two genes.
    """
    if len(variance) < 2:
        return 0.0, 0.0
    half = degrees / 2
    e = np.log(variance) - special.digamma(half) + np.log(half)
    excess = float(e.var(ddof=1) - special.polygamma(1, half))
    if excess <= 0:
        return float("inf"), float(np.exp(e.mean()))
    # Trigamma falls from infinity to 0, so that the root is the only one.
    found = optimize.root_scalar(
        lambda x: special.polygamma(1, np.exp(x)) - excess, bracket=(-30.0, 30.0)
    )
    prior_half = float(np.exp(found.root))
    prior = np.exp(e.mean() + special.digamma(prior_half) - np.log(prior_half))
    return 2.0 * prior_half, float(prior)


def _welch_p(stratum: Stratum) -> Float[np.ndarray, " genes"]:
    """Two-sided p of Welch's t over cells; 1 for constant genes."""
    # Means and variances at hand, as scipy warns of constant columns when it computes them.
    moments = [
        (
            cells.mean(axis=0, dtype=np.float64),
            cells.std(axis=0, ddof=1, dtype=np.float64),
            len(cells),
        )
        for cells in (stratum.treated, stratum.control)
    ]
    (mean_t, sd_t, n_t), (mean_c, sd_c, n_c) = moments
    constant = (sd_t == 0) & (sd_c == 0)
    sd_t = np.where(constant, 1.0, sd_t)
    found = stats.ttest_ind_from_stats(mean_t, sd_t, n_t, mean_c, sd_c, n_c, equal_var=False)
    return np.where(constant, 1.0, np.asarray(found.pvalue))
