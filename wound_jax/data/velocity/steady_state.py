"""RNA velocity by the steady-state model (La Manno et al. 2018, Nature 560, 494).

    ds/dt = u - gamma s                     (time in units of the splicing rate)

Cells with most of a gene's molecules are near its steady state, where u = gamma s. So gamma is the
slope through the origin and those cells: gamma = sum u s / sum s^2 over the cells whose
s / max s + u / max u reaches its 95th percentile. Counts are normalised and averaged over
neighbouring cells first. Choices and thresholds are those of scVelo's deterministic mode.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from wound_jax.data.source import Matrix
from wound_jax.errors import UserError

# Spliced counts of a cell are scaled to this total, as in log1p_cp10k.
TARGET_SUM = 1e4
# A gene needs this many counts in cells where both of its forms were seen.
MIN_SHARED_COUNTS = 20
UPPER_PERCENTILE = 95.0
MIN_R2 = 0.01
MIN_GAMMA = 0.01
_SMALLEST_MAXIMUM = 1e-3


@dataclass(frozen=True)
class SteadyState:
    """A fitted steady-state model; NaN for genes with too few counts.

    Attributes:
        velocity: float32 [cells, genes], change of `spliced` per unit of time (1 / splicing rate).
        spliced: float32 [cells, genes], normalised counts averaged over neighbours (Ms).
        unspliced: float32 [cells, genes], likewise (Mu).
        gamma: [genes], degradation rate over splicing rate.
        r2: [genes], coefficient of determination of u = gamma s over all cells.
        genes: bool [genes], genes whose fit is good enough to trust their velocity.
    """

    velocity: Float[np.ndarray, "cells genes"]
    spliced: Float[np.ndarray, "cells genes"]
    unspliced: Float[np.ndarray, "cells genes"]
    gamma: Float[np.ndarray, " genes"]
    r2: Float[np.ndarray, " genes"]
    genes: Bool[np.ndarray, " genes"]


def steady_state_velocity(
    spliced: Matrix, unspliced: Matrix, neighbours: Int[np.ndarray, "cells k"]
) -> SteadyState:
    """Estimates the velocity of every gene with enough counts.

    Args:
        spliced: counts, [cells, genes].
        unspliced: counts, [cells, genes].
        neighbours: [cells, k], the cells that a cell is averaged with, besides itself.

    Raises:
        UserError: the shapes differ, or no gene can be fitted.
    """
    if spliced.shape != unspliced.shape:
        raise UserError(f"spliced is {spliced.shape}, but unspliced is {unspliced.shape}.")
    s, u = sp.csr_matrix(spliced), sp.csr_matrix(unspliced)
    counted = _counted_genes(s, u)
    # One factor for both layers keeps u on the scale of s, with its own depth divided out.
    factor = TARGET_SUM / _median_total(s)
    s_mean = smooth(normalised(s, TARGET_SUM)[:, counted], neighbours)
    u_mean = smooth(normalised(u, factor * _median_total(u))[:, counted], neighbours)
    gamma = fit_gamma(s_mean, u_mean)
    residual = u_mean - gamma * s_mean
    r2 = _r_squared(residual, u_mean)
    genes = (r2 > MIN_R2) & (gamma > MIN_GAMMA) & (s_mean > 0).any(0) & (u_mean > 0).any(0)
    if not genes.any():
        raise UserError(
            f"no gene fits u = gamma s (r2 above {MIN_R2}); the layers hold no splicing signal."
        )
    return SteadyState(
        velocity=_spread(residual, counted),
        spliced=_spread(s_mean, counted),
        unspliced=_spread(u_mean, counted),
        gamma=_spread(gamma, counted),
        r2=_spread(r2, counted),
        genes=_spread(genes, counted) == 1,
    )


def fit_gamma(
    spliced: Float[np.ndarray, "cells genes"],
    unspliced: Float[np.ndarray, "cells genes"],
    percentile: float = UPPER_PERCENTILE,
) -> Float[np.ndarray, " genes"]:
    """Slope of u = gamma s through the origin, over each gene's upper extreme of cells.

    Args:
        spliced: [cells, genes].
        unspliced: [cells, genes].
        percentile: of s / max s + u / max u; cells at or above it are fitted.

    Returns:
        [genes]; 0 for genes without spliced molecules.
    """
    size = sum(x / np.maximum(x.max(axis=0), _SMALLEST_MAXIMUM) for x in (spliced, unspliced))
    extreme = size >= np.percentile(size, percentile, axis=0)
    s, u = np.where(extreme, spliced, 0.0), np.where(extreme, unspliced, 0.0)
    squares = np.square(s).sum(axis=0)
    return (s * u).sum(axis=0) / np.where(squares > 0, squares, np.inf)


def shared_counts(spliced: sp.csr_matrix, unspliced: sp.csr_matrix) -> np.ndarray:
    """Counts of each gene in the cells where both of its forms were seen, [genes]."""
    both = spliced.astype(bool).multiply(unspliced.astype(bool))
    total = spliced.multiply(both) + unspliced.multiply(both)
    return np.asarray(total.sum(axis=0)).ravel()


def _counted_genes(spliced: sp.csr_matrix, unspliced: sp.csr_matrix) -> Bool[np.ndarray, " genes"]:
    counted = shared_counts(spliced, unspliced) >= MIN_SHARED_COUNTS
    if not counted.any():
        raise UserError(
            f"no gene has {MIN_SHARED_COUNTS} counts in cells where it was seen both spliced and "
            "unspliced; velocity cannot be estimated from these layers."
        )
    return counted


def normalised(counts: sp.csr_matrix, total: float) -> sp.csr_matrix:
    """Each cell scaled to `total` counts; cells without counts stay empty."""
    sums = np.asarray(counts.sum(axis=1)).ravel()
    return sp.csr_matrix(sp.diags(total / np.where(sums > 0, sums, np.inf)) @ counts)


def smooth(
    values: sp.csr_matrix, neighbours: Int[np.ndarray, "cells k"]
) -> Float[np.ndarray, "cells genes"]:
    """The mean over each cell and its neighbours (first moments), float32 and dense."""
    n, k = neighbours.shape
    columns = np.column_stack([np.arange(n), neighbours]).ravel()
    starts = np.arange(0, n * (k + 1) + 1, k + 1)
    weights = np.full(n * (k + 1), 1.0 / (k + 1))
    mean = sp.csr_matrix((weights, columns, starts), shape=(n, n))
    return sp.csr_matrix(mean @ values).toarray().astype(np.float32)


def _median_total(counts: sp.csr_matrix) -> float:
    """Median depth of the cells that have counts at all."""
    totals = np.asarray(counts.sum(axis=1)).ravel()
    return float(np.median(totals[totals > 0]))


def _r_squared(
    residual: Float[np.ndarray, "cells genes"], values: Float[np.ndarray, "cells genes"]
) -> Float[np.ndarray, " genes"]:
    total = np.square(values - values.mean(axis=0)).sum(axis=0)
    return 1.0 - np.square(residual).sum(axis=0) / np.where(total > 0, total, np.nan)


def _spread(values: np.ndarray, columns: Bool[np.ndarray, " genes"]) -> np.ndarray:
    """Puts fitted genes back among all genes, float32, NaN for the others."""
    out = np.full((*values.shape[:-1], len(columns)), np.nan, dtype=np.float32)
    out[..., columns] = values
    return out
