"""Where cells move, and where their neighbours are found, for velocities made from a graph.

What moves is the matrix a model reads: expression on the model's own scale, or an embedding as it
is. Neighbours are found in an embedding, by default the moving one; for expression in principal
components of its most variable genes. Whatever is fitted is fitted on the cells that take part.
"""

import anndata as ad
import numpy as np
from jaxtyping import Float, Int

from wound_jax.data.preprocess import fit_preprocessing
from wound_jax.data.source import is_gene_matrix, matrix
from wound_jax.errors import UserError

_N_GENES, _N_PCS = 2_000, 50


def matrix_key(rep: str) -> str:
    """The matrix a command's --rep names: "X" and "layers/NAME" as they are, else obsm/REP."""
    return rep if rep == "X" or "/" in rep else f"obsm/{rep}"


def moving_matrix(
    adata: ad.AnnData, key: str, preprocess: str, kept: Int[np.ndarray, " kept"]
) -> Float[np.ndarray, "cells dims"]:
    """The matrix that velocities are displacements of.

    Args:
        adata: the cells.
        key: "X", "layers/NAME" or "obsm/KEY".
        preprocess: "none" or "log1p_cp10k", as in training; for expression.
        kept: positions of the cells that take part, all of whose values must be finite.

    Returns:
        float32 [cells, dims], all genes or all dimensions.

    Raises:
        UserError: there is no such matrix, its scale is another, or values are not finite.
    """
    values = matrix(adata, key)
    if is_gene_matrix(key):
        names = list(adata.var_names)
        try:
            return fit_preprocessing(values, names, kept, preprocess, None).apply(values, names)[0]
        except UserError as e:
            raise UserError(f"{key}: {e} Here that setting is --preprocess.") from e
    return _finite(np.asarray(values, dtype=np.float32), key, kept)


def neighbour_space(
    adata: ad.AnnData,
    key: str,
    moving: Float[np.ndarray, "cells dims"],
    neighbours_in: str | None,
    kept: Int[np.ndarray, " kept"],
) -> tuple[Float[np.ndarray, "cells pcs"], str]:
    """The embedding in which neighbours are found.

    Args:
        adata: the cells.
        key: of `moving`.
        moving: from `moving_matrix`.
        neighbours_in: obsm key; None takes an embedding itself, and for expression 50 principal
            components of the 2,000 genes of largest variance.
        kept: positions of the cells that take part.

    Returns:
        float32 [cells, pcs], and what it is in words.
    """
    if neighbours_in is not None:
        named = f"obsm/{neighbours_in}"
        return _finite(np.asarray(matrix(adata, named), dtype=np.float32), named, kept), named
    if not is_gene_matrix(key):
        return moving, key
    components = _principal_components(moving, kept)
    return components, f"{components.shape[1]} principal components of {key}"


def _principal_components(
    expression: Float[np.ndarray, "cells genes"], kept: Int[np.ndarray, " kept"]
) -> Float[np.ndarray, "cells pcs"]:
    from sklearn.decomposition import PCA

    variance = expression[kept].var(axis=0, dtype=np.float64)
    # A stable sort breaks ties by the order of the genes.
    widest = np.sort(np.argsort(-variance, kind="stable")[: min(_N_GENES, (variance > 0).sum())])
    n_pcs = min(_N_PCS, len(kept) - 1, len(widest))
    if n_pcs < 1:
        raise UserError(
            f"{len(widest)} genes vary over the {len(kept)} cells that take part: there are no "
            "principal components. Leave out less, or name an embedding by --neighbours-in."
        )
    pca = PCA(n_pcs, svd_solver="randomized", random_state=0)
    return pca.fit(expression[kept][:, widest]).transform(expression[:, widest]).astype(np.float32)


def _finite(values: np.ndarray, name: str, kept: Int[np.ndarray, " kept"]) -> np.ndarray:
    if not np.isfinite(values[kept]).all():
        raise UserError(f"{name} holds NaN or infinite values; recompute it, or leave those out.")
    return values
