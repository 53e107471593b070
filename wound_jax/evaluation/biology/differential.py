"""Differential expression over replicates, and the interval of a further replicate.

Which genes does the treatment move? The pseudobulk of each replicate is one observation, so that n
is the number of replicates and not of cells. As replicates are few, the variance of a gene is
moderated by those of all genes (Smyth 2004, Stat Appl Genet Mol Biol 3:3):

    s~^2 = (d0 s0^2 + d s^2) / (d0 + d),   t = difference / (s~ sqrt(v)),   d0 + d degrees

with d0 and s0^2 fitted to all genes' variances, v = 1/n_T + 1/n_C. Where both arms come from
the same replicates it is their differences that are tested, v = 1/n.

Where would the delta of a further replicate lie? Replicates of one timepoint are few (one to
three), so their spread is pooled over the timepoints t:

    s^2 = sum_t sum_a (x_ta - mean_t)^2 / df,   df = sum_t (n_t - 1)
    interval_t = mean_t +- q s sqrt(1 + 1 / n_t),   q the quantile of Student's t with df

the prediction interval of a normal sample (Hahn and Meeker 1991, Statistical Intervals, ch. 4).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import optimize, special, stats

from wound_jax.data.strata import Stratum
from wound_jax.evaluation.biology.gene_sets import rows_by_replicate

# Cells a replicate must have in an arm for its mean to be an observation.
FEWEST_CELLS = 10


# Replicates in each arm, or replicates that have both arms.
_FEWEST_REPLICATES = 2


_FEWEST_PAIRS = 3


class Differential(NamedTuple):
    """The test of every gene of a stratum.

    Attributes:
        p_value: two-sided, [genes]; 1 for a gene that is constant.
        unit: what was sampled, "replicates" or "cells".
    """

    p_value: Float[np.ndarray, " genes"]
    unit: str


def differential(stratum: Stratum) -> Differential:
    """Test treated against control cells.

    By replicates where there are two in each arm (three that have both), each with at least
    `FEWEST_CELLS` cells in the arm; else Welch's t on cells, whose p-values are too small, as
    cells of one replicate are no independent sample.

    Args:
        stratum: at least two cells in both arms.
    """
    control = _replicate_means(stratum.control, stratum.control_replicates)
    treated = _replicate_means(stratum.treated, stratum.treated_replicates)
    both = sorted(set(control) & set(treated))
    if len(both) >= _FEWEST_PAIRS:
        pairs = np.stack([treated[name] - control[name] for name in both])
        p = _moderated_p(
            pairs.mean(axis=0), pairs.var(axis=0, ddof=1), len(both) - 1, 1 / len(both)
        )
        return Differential(p, "replicates")
    if both or min(len(control), len(treated)) < _FEWEST_REPLICATES:
        return Differential(_welch_p(stratum), "cells")
    c, t = (np.stack(list(means.values())) for means in (control, treated))
    degrees = len(c) + len(t) - 2
    within = ((len(c) - 1) * c.var(axis=0, ddof=1) + (len(t) - 1) * t.var(axis=0, ddof=1)) / degrees
    p = _moderated_p(t.mean(axis=0) - c.mean(axis=0), within, degrees, 1 / len(c) + 1 / len(t))
    return Differential(p, "replicates")


def _replicate_means(
    cells: Float[np.ndarray, "cells genes"], replicates: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Mean cell of each replicate, float64 [genes]."""
    rows = rows_by_replicate(replicates, FEWEST_CELLS)
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


# Cells a replicate must have in an arm for its mean to stand for it.
FEWEST_CELLS = 10


# With fewer degrees of freedom the interval is so wide that it accepts nearly anything.
FEWEST_DEGREES = 3


class ReplicateChanges(NamedTuple):
    """What the treatment changed in each treated replicate of one stratum.

    Attributes:
        by_replicate: replicate -> its mean minus that of the controls.
        controls: the control replicates; none where each replicate is its own control, so that the
            spread of the controls is in the changes already.
    """

    by_replicate: dict[str, float]
    controls: frozenset[str]

    def joined(self, other: "ReplicateChanges") -> "ReplicateChanges":
        """These replicates and those of `other` that are not among them."""
        return ReplicateChanges(
            {**other.by_replicate, **self.by_replicate}, self.controls | other.controls
        )


class Interval(NamedTuple):
    """An interval that another sample of the same truth should fall into.

    Attributes:
        low: lower end.
        high: upper end.
        sign: sign of the change where it can be told from none at 5 %, else 0.
        source: what its width is made of.
        n_replicates: treated replicates behind it; 0 where it is made of cells.
    """

    low: float
    high: float
    sign: int
    source: str
    n_replicates: int


def replicate_changes(
    stratum: Stratum, control: Float[np.ndarray, " cells"], treated: Float[np.ndarray, " targets"]
) -> ReplicateChanges:
    """Change of each treated replicate with at least `FEWEST_CELLS` cells.

    Args:
        stratum: names the replicates.
        control: a value of each control cell.
        treated: a value of each treated cell.
    """
    sources = rows_by_replicate(stratum.treated_replicates, FEWEST_CELLS)
    controls = rows_by_replicate(stratum.control_replicates, FEWEST_CELLS)
    means = {name: float(treated[rows].mean()) for name, rows in sources.items()}
    if set(means) <= set(controls):
        own = {name: float(control[controls[name]].mean()) for name in means}
        return ReplicateChanges({name: means[name] - own[name] for name in means}, frozenset())
    base = float(control.mean())
    # Controls of unknown replicates count as one, the least that they can be.
    return ReplicateChanges(
        {name: mean - base for name, mean in means.items()}, frozenset(controls or ("all",))
    )


def replicate_intervals(
    changes: Sequence[ReplicateChanges], alpha: float, source: str
) -> list[Interval] | None:
    """Prediction intervals (module docstring), one for each timepoint of a cell type.

    Whether a change differs from none is judged at 5 % with the control replicates taken to vary as
    the treated ones do: |mean_t| > q s sqrt(1 / n_t + 1 / n_controls).

    Args:
        changes: of one cell type, one entry a timepoint.
        alpha: share of further replicates that may fall outside.
        source: name of these replicates.

    Returns:
        None where a timepoint has no replicate, or they leave fewer than `FEWEST_DEGREES`.
    """
    samples = [np.array(list(one.by_replicate.values())) for one in changes]
    degrees = sum(len(sample) - 1 for sample in samples)
    if not all(map(len, samples)) or degrees < FEWEST_DEGREES:
        return None
    spread = np.sqrt(sum(float(np.square(x - x.mean()).sum()) for x in samples) / degrees)
    wide, usual = stats.t.ppf([1 - alpha / 2, 0.975], degrees) * spread
    found = []
    for sample, one in zip(samples, changes, strict=True):
        mean, n = float(sample.mean()), len(sample)
        reach = wide * np.sqrt(1 + 1 / n)
        noise = usual * np.sqrt(1 / n + (1 / len(one.controls) if one.controls else 0.0))
        sign = int(np.sign(mean)) if abs(mean) > noise else 0
        found.append(Interval(float(mean - reach), float(mean + reach), sign, source, n))
    return found


def cell_interval(
    control: Float[np.ndarray, " cells"], treated: Float[np.ndarray, " targets"], alpha: float
) -> Interval:
    """Normal interval of the change from the spread of cells, where replicates are too few.

    mean T - mean C +- z sqrt(var T / n_T + var C / n_C). It leaves out how replicates differ, and
    is therefore narrower than one of replicates.

    Args:
        control: a value of each control cell, at least two.
        treated: a value of each treated cell, at least two.
        alpha: share outside.
    """
    change = float(treated.mean() - control.mean())
    error = np.sqrt(sum(values.var(ddof=1) / len(values) for values in (control, treated)))
    wide, usual = stats.norm.ppf([1 - alpha / 2, 0.975]) * error
    sign = int(np.sign(change)) if abs(change) > usual else 0
    return Interval(float(change - wide), float(change + wide), sign, "cells", 0)
