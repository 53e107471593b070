"""The most variable genes of cells that come in blocks, by scanpy's `seurat` dispersions.

    d_g = log(var_g / mean_g)        of expm1(log values), over the training cells
    z_g = (d_g - mean_b) / sd_b      within bin b of 20 equal bins of log1p(mean_g)

(Satija et al. 2015, Nat. Biotechnol. 33, 495-502.) Mean and variance need one pass over the cells
and two sums a gene, so that a matrix on disk gives the genes that the same matrix in memory gives.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from wound_jax.data.stored_matrix import Matrix, n_columns, n_rows
from wound_jax.errors import UserError

_BINS = 20


class GeneMoments:
    """Sums over cells from which mean and variance of each gene follow.

    Args:
        n_genes: columns of the blocks.
    """

    def __init__(self, n_genes: int):
        self._cells = 0
        self._sum = np.zeros(n_genes)
        self._squares = np.zeros(n_genes)

    def add(self, log_values: Matrix) -> None:
        """Adds cells, `[cells, genes]` of log(1 + x)."""
        self._cells += n_rows(log_values)
        x = np.expm1(log_values if isinstance(log_values, np.ndarray) else log_values.data)
        # Squared in the precision of the values, as scanpy does: genes at the cut stay the same.
        self._sum += _column_sums(x, log_values)
        self._squares += _column_sums(x * x, log_values)

    def mean_and_variance(self) -> tuple[Float[np.ndarray, " genes"], Float[np.ndarray, " genes"]]:
        """Of x, not of its logarithm; the variance is the unbiased one."""
        mean = self._sum / self._cells
        spread = self._squares / self._cells - mean**2
        return mean, spread * (self._cells / max(1, self._cells - 1))


def _column_sums(x: np.ndarray, cells: Matrix) -> Float[np.ndarray, " genes"]:
    """Sums over the cells in float64 of values that lie where those of `cells` do."""
    if isinstance(cells, np.ndarray):
        return x.sum(axis=0, dtype=np.float64)
    return np.bincount(cells.indices, weights=x, minlength=n_columns(cells))


def highly_variable(moments: GeneMoments, n_hvg: int) -> Int[np.ndarray, " kept"]:
    """Positions of the genes that vary most, ascending.

    scanpy's own cut keeps all genes that tie with the last one, and fewer than asked for where
    too few vary; here there are `n_hvg` of them, the first in the file where they tie.

    Args:
        moments: of the training cells.
        n_hvg: how many to keep.

    Raises:
        UserError: fewer genes vary.
    """
    dispersion, normalised = dispersions(*moments.mean_and_variance())
    varying = np.isfinite(dispersion)
    if varying.sum() < n_hvg:
        raise UserError(
            f"data.n_hvg={n_hvg}, but only {varying.sum()} genes vary in the training cells; "
            "lower it."
        )
    spread = np.where(np.isnan(normalised), -np.inf, normalised)
    return np.sort(np.lexsort((-spread, ~varying))[:n_hvg])


def dispersions(
    mean: Float[np.ndarray, " genes"], variance: Float[np.ndarray, " genes"]
) -> tuple[Float[np.ndarray, " genes"], Float[np.ndarray, " genes"]]:
    """Dispersion of each gene, and the same within its bin of mean expression.

    Args:
        mean: of the expression, not of its logarithm.
        variance: likewise.

    Returns:
        `d` and `z` as in the module's formula; NaN where a gene does not vary. A gene alone in its
        bin has no spread to be measured by and gets z = 1.
    """
    mean = np.where(mean == 0, 1e-12, mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        raw = np.where(variance > 0, np.log(variance / mean), np.nan)
    dispersion = pd.Series(raw)
    binned = dispersion.groupby(pd.cut(pd.Series(np.log1p(mean)), bins=_BINS), observed=True)
    centre, spread = binned.transform("mean"), binned.transform("std")
    alone = spread.isna()
    z = (dispersion - centre.mask(alone, 0.0)) / spread.mask(alone, centre)
    return raw, z.to_numpy()
