"""RNA velocity by the steady-state model (La Manno et al. 2018, Nature 560, 494).

    ds/dt = u - gamma s                     (time in units of the splicing rate)

Cells with most of a gene's molecules are near its steady state, where u = gamma s. So gamma is the
slope through the origin and those cells: gamma = sum u s / sum s^2 over the cells whose
s / max s + u / max u reaches its 95th percentile. Counts are normalised and averaged over
neighbouring cells first. Choices and thresholds are those of scVelo's deterministic mode.

Adds gene velocities to an AnnData that has spliced and unspliced counts only.

Engines: `steady_state`, our own (`wound_jax.data.velocity.from_spliced`), and the field's tool
(Bergen et al. 2020, Nat. Biotechnol. 38, 1408), an optional dependency: `scvelo` is its
deterministic mode, `scvelo_dynamical` its fit of full kinetics. All average over the nearest
neighbours in the same representation and leave the same entries behind: `layers["velocity"]`,
`layers["Ms"]` and `["Mu"]`, `var["velocity_genes"]`, `obs["velocity_confidence"]`, and how they
were made in `uns["velocity_estimate"]`.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from wound_jax.data.source import Matrix, matrix
from wound_jax.data.velocity.contract import CONFIDENCE, ESTIMATE, GENES_COLUMN, present
from wound_jax.data.velocity.graph import nearest_neighbours, neighbour_confidence
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


Engine = Literal["steady_state", "scvelo", "scvelo_dynamical"]


def add_gene_velocity(
    adata: ad.AnnData, engine: Engine, *, rep: str, n_neighbours: int = 30
) -> None:
    """Estimates gene velocities and their confidences, and adds them to `adata` in place.

    Velocities are changes of the normalised counts `layers["Ms"]`, not of their logarithm. The
    confidence is a cell's mean correlation with the velocities of its neighbours.

    Args:
        adata: the cells, with layers "spliced" and "unspliced".
        engine: "steady_state", "scvelo" or "scvelo_dynamical" (minutes for 1,000 cells).
        rep: obsm key in which neighbours are found.
        n_neighbours: cells that a cell is averaged with.

    Raises:
        UserError: layers are missing, scVelo is not installed, or there is no splicing signal.
    """
    missing = [name for name in ("spliced", "unspliced") if name not in adata.layers]
    if missing:
        raise UserError(
            f"velocity is estimated from layers 'spliced' and 'unspliced', but {missing} "
            f"{'is' if len(missing) == 1 else 'are'} missing. The file has {present(adata)}."
        )
    neighbours = nearest_neighbours(np.asarray(matrix(adata, f"obsm/{rep}")), n_neighbours)
    if engine == "steady_state":
        _by_steady_state(adata, neighbours)
    else:
        _by_scvelo(adata, rep, n_neighbours, dynamical=engine == "scvelo_dynamical")
    genes = adata.var[GENES_COLUMN].to_numpy()
    trusted = np.where(genes, adata.layers["velocity"], np.nan)
    adata.obs[CONFIDENCE] = neighbour_confidence(trusted, neighbours)
    adata.uns[ESTIMATE] = {
        "engine": engine,
        "neighbours": n_neighbours,
        "neighbours_in": rep,
    }


def _by_steady_state(adata: ad.AnnData, neighbours: np.ndarray) -> None:
    spliced, unspliced = (matrix(adata, f"layers/{name}") for name in ("spliced", "unspliced"))
    fit = steady_state_velocity(spliced, unspliced, neighbours)
    adata.layers["velocity"] = fit.velocity
    adata.layers["Ms"], adata.layers["Mu"] = fit.spliced, fit.unspliced
    adata.var[GENES_COLUMN] = fit.genes
    adata.var["velocity_gamma"], adata.var["velocity_r2"] = fit.gamma, fit.r2


def _by_scvelo(adata: ad.AnnData, rep: str, n_neighbours: int, *, dynamical: bool) -> None:
    if find_spec("scvelo") is None:
        raise UserError(
            "scVelo is not installed: pip install 'wound_jax[velocity]', or use the built-in "
            "estimate by --from-spliced steady_state."
        )
    import scanpy as sc
    import scvelo as scv  # pyright: ignore[reportMissingImports]

    layers = {name: sp.csr_matrix(adata.layers[name]) for name in ("spliced", "unspliced")}
    cells = ad.AnnData(
        X=layers["spliced"].copy(),
        obs=pd.DataFrame(index=adata.obs_names),
        var=pd.DataFrame(index=adata.var_names),
        layers=layers,
    )
    cells.obsm[rep] = adata.obsm[rep]
    # Without a neighbour graph of its own scVelo would find one in a PCA that is not ours.
    sc.pp.neighbors(cells, n_neighbors=n_neighbours, use_rep=rep)
    scv.pp.filter_and_normalize(cells, min_shared_counts=MIN_SHARED_COUNTS)
    scv.pp.moments(cells, n_pcs=None, n_neighbors=None)
    # scVelo's own default, the stochastic mode, fails in 0.3.4 with numpy 2.4 and later.
    scv.tl.velocity(cells, mode="deterministic")
    if dynamical:
        scv.tl.recover_dynamics(cells, n_jobs=1)
        scv.tl.velocity(cells, mode="dynamical")
    at = adata.var_names.get_indexer(cells.var_names)
    for name in ("velocity", "Ms", "Mu"):
        adata.layers[name] = _columns(np.asarray(cells.layers[name]), at, adata.n_vars)
    genes = np.zeros(adata.n_vars, dtype=bool)
    genes[at] = cells.var[GENES_COLUMN].to_numpy(dtype=bool)
    adata.var[GENES_COLUMN] = genes


def _columns(values: np.ndarray, at: np.ndarray, n_genes: int) -> np.ndarray:
    """Columns put back among all genes, float32, NaN for those that were filtered out."""
    out = np.full((len(values), n_genes), np.nan, dtype=np.float32)
    out[:, at] = values
    return out
