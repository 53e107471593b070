"""Adds gene velocities to an AnnData that has spliced and unspliced counts only.

Engines: `steady_state`, our own (`wound_jax.data.velocity.steady_state`), and the field's tool
(Bergen et al. 2020, Nat. Biotechnol. 38, 1408), an optional dependency: `scvelo` is its
deterministic mode, `scvelo_dynamical` its fit of full kinetics. All average over the nearest
neighbours in the same representation and leave the same entries behind: `layers["velocity"]`,
`layers["Ms"]` and `["Mu"]`, `var["velocity_genes"]`, `obs["velocity_confidence"]`, and how they
were made in `uns["velocity_estimate"]`.
"""

from importlib.util import find_spec
from typing import Literal

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from wound_jax.data.source import matrix
from wound_jax.data.velocity.contract import CONFIDENCE, ESTIMATE, GENES_COLUMN, present
from wound_jax.data.velocity.graph import nearest_neighbours, neighbour_confidence
from wound_jax.data.velocity.steady_state import MIN_SHARED_COUNTS, steady_state_velocity
from wound_jax.errors import UserError

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
