"""RNA velocity of genes from spliced and unspliced counts, by scVelo (an optional dependency).

    ds/dt = u - gamma s                     (time in units of the splicing rate)

`steady_state` is scVelo's deterministic mode: near its steady state u = gamma s, so gamma is the
slope through the origin and the cells with most of a gene's molecules (La Manno et al. 2018, Nature
560, 494). `dynamical` fits the full kinetics (Bergen et al. 2020, Nat. Biotechnol. 38, 1408).
Counts are averaged over the nearest neighbours first, the same that confidences are taken over.
"""

from importlib.util import find_spec
from types import ModuleType
from typing import Literal

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from wound_jax.data.source import matrix
from wound_jax.data.velocity.contract import CONFIDENCE, ESTIMATE, GENES_COLUMN, present
from wound_jax.data.velocity.graph import nearest_neighbours, neighbour_confidence
from wound_jax.errors import UserError

Engine = Literal["steady_state", "dynamical"]
# Spliced counts of a cell are scaled to this total, as in log1p_cp10k.
TARGET_SUM = 1e4
# A gene needs this many counts in cells where both of its forms were seen.
MIN_SHARED_COUNTS = 20
# Of the fit u = gamma s; scVelo's own, which it lowers where no gene reaches it.
MIN_R2 = 0.01


def add_gene_velocity(
    adata: ad.AnnData, engine: Engine, *, rep: str, n_neighbours: int = 30
) -> None:
    """Velocity of genes and its confidence, added to `adata` in place.

    Written are `layers["velocity"]`, a change of the normalised counts `layers["Ms"]` and not of
    their logarithm, `["Ms"]` and `["Mu"]`, all NaN for genes with too few counts;
    `var["velocity_genes"]`, genes whose fit is good enough to trust their velocity, with
    `["velocity_gamma"]` and `["velocity_r2"]` of u = gamma s; `obs["velocity_confidence"]`, a
    cell's mean correlation with the velocities of its neighbours; `uns["velocity_estimate"]`.

    Args:
        adata: the cells, with layers "spliced" and "unspliced".
        engine: "steady_state" or "dynamical" (minutes for 1,000 cells).
        rep: obsm key in which neighbours are found.
        n_neighbours: cells that a cell is averaged with.

    Raises:
        UserError: layers are missing, scVelo is not installed or does not work with the pandas
            that is, or there is no splicing signal.
    """
    missing = [name for name in ("spliced", "unspliced") if name not in adata.layers]
    if missing:
        raise UserError(
            f"velocity is estimated from layers 'spliced' and 'unspliced', but {missing} "
            f"{'is' if len(missing) == 1 else 'are'} missing. The file has {present(adata)}."
        )
    if find_spec("scvelo") is None:
        raise UserError(
            "velocity is estimated by scVelo, which is not installed: "
            "pip install 'wound_jax[velocity]'."
        )
    neighbours = nearest_neighbours(np.asarray(matrix(adata, f"obsm/{rep}")), n_neighbours)
    fitted = _fitted(_counts(adata, neighbours), engine)
    _store(adata, fitted)
    trusted = np.where(adata.var[GENES_COLUMN], adata.layers["velocity"], np.nan)
    adata.obs[CONFIDENCE] = neighbour_confidence(trusted, neighbours)
    adata.uns[ESTIMATE] = {"engine": engine, "neighbours": n_neighbours, "neighbours_in": rep}


def _counts(adata: ad.AnnData, neighbours: Int[np.ndarray, "cells k"]) -> ad.AnnData:
    """What scVelo reads: both layers, and the neighbours as a graph as scanpy writes it."""
    layers = {name: sp.csr_matrix(adata.layers[name]) for name in ("spliced", "unspliced")}
    cells = ad.AnnData(
        X=layers["spliced"].copy(),
        # Positions, for names may repeat.
        var=pd.DataFrame(index=np.arange(adata.n_vars).astype(str)),
        layers=layers,
    )
    # scVelo weighs all neighbours alike, whatever the graph says; it would find others by itself.
    n, k = neighbours.shape
    starts = np.arange(0, n * k + 1, k)
    graph = sp.csr_matrix((np.ones(n * k), neighbours.ravel(), starts), shape=(n, n))
    cells.obsp["connectivities"] = cells.obsp["distances"] = graph
    keys = {"connectivities_key": "connectivities", "distances_key": "distances"}
    cells.uns["neighbors"] = {"params": {"n_neighbors": k + 1, "method": "umap"}, **keys}
    return cells


def _fitted(cells: ad.AnnData, engine: Engine) -> ad.AnnData:
    """The genes with enough counts and their velocities, on the scale of `TARGET_SUM`."""
    import scvelo as scv  # pyright: ignore[reportMissingImports]

    scv.pp.filter_and_normalize(cells, min_shared_counts=MIN_SHARED_COUNTS, enforce=True)
    if not cells.n_vars:
        raise UserError(
            f"no gene has {MIN_SHARED_COUNTS} counts in cells where it was seen both spliced and "
            "unspliced; velocity cannot be estimated from these layers."
        )
    scv.pp.moments(cells, n_pcs=None, n_neighbors=None)  # pyright: ignore[reportArgumentType]
    # scVelo's own default, the stochastic mode, fails in 0.3.4 with numpy 2.4 and later.
    scv.tl.velocity(cells, mode="deterministic")
    if not (cells.var["velocity_r2"] > MIN_R2).any():
        raise UserError(
            f"no gene fits u = gamma s (r2 above {MIN_R2}); the layers hold no splicing signal."
        )
    if engine == "dynamical":
        _fit_kinetics(cells, scv)
    # scVelo scales to the median depth; one factor for all keeps u on the scale of s.
    factor = TARGET_SUM / (np.median(cells.obs["initial_size_spliced"]) or 1.0)
    for name in ("velocity", "Ms", "Mu"):
        cells.layers[name] = factor * np.asarray(cells.layers[name])
    return cells


def _fit_kinetics(cells: ad.AnnData, scv: ModuleType) -> None:
    try:
        scv.tl.recover_dynamics(cells, n_jobs=1)
    except TypeError as e:
        # 0.3.4 hands pandas.unique a list, which pandas 3 refuses.
        raise UserError(
            f"scVelo {scv.__version__} cannot fit full kinetics with pandas {pd.__version__} "
            f"({e}); pip install 'pandas<3', or use --from-spliced steady_state."
        ) from e
    scv.tl.velocity(cells, mode="dynamical")


def _store(adata: ad.AnnData, fitted: ad.AnnData) -> None:
    """Puts the fitted genes back among all genes."""
    at = np.isin(np.arange(adata.n_vars), fitted.var_names.astype(int))
    for name in ("velocity", "Ms", "Mu"):
        adata.layers[name] = _spread(np.asarray(fitted.layers[name]), at)
    for name in ("velocity_gamma", "velocity_r2"):
        adata.var[name] = _spread(fitted.var[name].to_numpy(), at)
    adata.var[GENES_COLUMN] = _spread(fitted.var[GENES_COLUMN].to_numpy(), at) == 1


def _spread(
    values: Float[np.ndarray, "*cells fitted"] | Bool[np.ndarray, " fitted"],
    at: Bool[np.ndarray, " genes"],
) -> Float[np.ndarray, "*cells genes"]:
    """Values of the fitted genes among all genes, float32, NaN for the others."""
    out = np.full((*values.shape[:-1], len(at)), np.nan, dtype=np.float32)
    out[..., at] = values
    return out
