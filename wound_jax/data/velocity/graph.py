"""Graph of neighbouring cells: where cells move, where neighbours are found, and steps along it.

What moves is the matrix a model reads: expression on the model's own scale, or an embedding as it
is. Neighbours are found in an embedding, by default the moving one; for expression in principal
components of its most variable genes. Whatever is fitted is fitted on the cells that take part.

A cell's velocity is read off its k nearest neighbours j: those that lie in its direction get a
larger share of a transition probability T, and the representation moves by (Bergen et al. 2020,
Nat. Biotechnol. 38, 1408; La Manno et al. 2018, Nature 560, 494)

    T_ij = softmax_j(scale cos(x_j - x_i, v_i)),      dz_i = sum_j (T_ij - 1/k) (z_j - z_i)

with cosines over genes, each vector centred over its genes as scVelo does (so a change of depth is
no direction). Subtracting 1/k removes what the mere density of neighbours would give. The result
is a direction; its length is that of the neighbourhood, not of the velocity. Other transitions T
between neighbours (`wound_jax.data.velocity.pseudotime`) become directions by the same `drift`.

By hand, though scVelo 0.3.4 finds the same T over the same neighbours (dz equal to 1e-6): its
embedding scales every z_j - z_i to length 1 (cosines with dz from 0.95), and where one cell has no
velocity it has no gene left.
"""

from collections.abc import Iterator
from typing import Any

import anndata as ad
import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int
from scipy.special import softmax

from wound_jax.data.preprocess import fit_preprocessing
from wound_jax.data.scale import Origin
from wound_jax.data.source import is_gene_matrix, matrix
from wound_jax.errors import UserError

# Gathered neighbours of one chunk of cells stay below this.
_CHUNK_BYTES = 64 * 2**20
_N_GENES, _N_PCS = 2_000, 50
# Sharpness of transitions, as in scVelo.
SCALE = 10.0


def matrix_key(rep: str) -> str:
    """The matrix a command's --rep names: "X" and "layers/NAME" as they are, else obsm/REP."""
    return rep if rep == "X" or "/" in rep else f"obsm/{rep}"


def moving_matrix(
    adata: ad.AnnData,
    key: str,
    preprocess: str,
    kept: Int[np.ndarray, " kept"],
    *,
    trust_scale: bool = False,
) -> Float[np.ndarray, "cells dims"]:
    """The matrix that velocities are displacements of.

    Args:
        adata: the cells.
        key: "X", "layers/NAME" or "obsm/KEY".
        preprocess: "none" or "log1p_cp10k", as in training; for expression.
        kept: positions of the cells that take part, all of whose values must be finite.
        trust_scale: whether the scale of expression is left unchecked.

    Returns:
        float32 [cells, dims], all genes or all dimensions.

    Raises:
        UserError: there is no such matrix, its scale is another, or values are not finite.
    """
    values = matrix(adata, key)
    if is_gene_matrix(key):
        names = list(adata.var_names)
        origin = Origin(key, adata.obs_names.to_numpy(), names)
        given: dict[str, Any] = {"origin": origin, "trust": trust_scale}
        try:
            fitted = fit_preprocessing(values, names, kept, preprocess, None, **given)
            return fitted.apply(values, names, **given)[0]
        except UserError as e:
            raise UserError(
                f"{e} Here that setting is --preprocess, and data.scale=trust is --trust-scale."
            ) from e
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


def nearest_neighbours(
    embedding: Float[np.ndarray, "cells dims"], k: int
) -> Int[np.ndarray, "cells k"]:
    """The k nearest other cells of each cell, Euclidean, nearest first.

    Raises:
        UserError: there are not k other cells.
    """
    from sklearn.neighbors import NearestNeighbors

    if not 1 <= k < len(embedding):
        raise UserError(
            f"{k} neighbours were asked for among {len(embedding)} cells; choose between 1 and "
            f"{len(embedding) - 1}."
        )
    index = NearestNeighbors(n_neighbors=k).fit(embedding)
    return index.kneighbors(return_distance=False)


def project_graph(
    velocity: Float[np.ndarray, "cells genes"],
    expression: Float[np.ndarray, "cells genes"],
    embedding: Float[np.ndarray, "cells dims"],
    neighbours: Int[np.ndarray, "cells k"],
    *,
    scale: float = SCALE,
) -> Float[np.ndarray, "cells dims"]:
    """Velocity of a frozen embedding.

    Args:
        velocity: [cells, genes]; only genes known in every cell that has a velocity are used.
        expression: [cells, genes], the scale the velocity is a change of (smoothed counts Ms for
            velocities of counts).
        embedding: [cells, dims].
        neighbours: [cells, k] from `nearest_neighbours`.
        scale: how sharply transitions follow the velocity.

    Returns:
        float32 [cells, dims]; NaN rows where the velocity is unknown.

    Raises:
        UserError: no gene has a velocity in all cells that have one.
    """
    known, genes = known_block(velocity)
    expression = expression[:, genes]
    moved = np.full(embedding.shape, np.nan, dtype=np.float32)
    for rows in _chunks(np.flatnonzero(known), neighbours.shape[1] * expression.shape[1]):
        displacement = expression[neighbours[rows]] - expression[rows, None]
        cosine = _cosines(displacement, velocity[np.ix_(rows, genes)])
        moved[rows] = drift(softmax(scale * cosine, axis=-1), embedding, neighbours[rows])
    return moved


def drift(
    transitions: Float[np.ndarray, "sources k"],
    values: Float[np.ndarray, "cells dims"],
    neighbours: Int[np.ndarray, "sources k"],
) -> Float[np.ndarray, "sources dims"]:
    """The displacement that transitions give, less the one of uniform transitions: dz above.

    Args:
        transitions: T, [sources, k], rows summing to one; a source is a cell that moves.
        values: z, [cells, dims], of all cells.
        neighbours: [sources, k], positions in `values`.

    Returns:
        float32 [sources, dims], in the unit of `values`.
    """
    n, k = neighbours.shape
    # Rows of T - 1/k sum to zero, so z_i itself drops out.
    excess = (np.asarray(transitions, dtype=np.float64) - 1.0 / k).ravel()
    starts = np.arange(0, n * k + 1, k)
    step = sp.csr_matrix((excess, neighbours.ravel(), starts), shape=(n, len(values)))
    return np.asarray(step @ values, dtype=np.float32)


def neighbour_confidence(
    velocity: Float[np.ndarray, "cells genes"],
    neighbours: Int[np.ndarray, "cells k"],
    *,
    centred: bool = True,
) -> Float[np.ndarray, " cells"]:
    """How far a cell's velocity agrees with its neighbours': mean correlation, not below 0.

    As scVelo's `velocity_confidence`, over the neighbours that have a velocity.

    Args:
        velocity: [cells, genes], NaN as in `project_graph`.
        neighbours: [cells, k].
        centred: whether each velocity is centred over its genes first (a correlation); the
            dimensions of an embedding have no common mean to take away, there it is the cosine.

    Returns:
        float32 [cells] in [0, 1]; 0 where the cell, or all its neighbours, have no velocity.
    """
    known, genes = known_block(velocity)
    confidence = np.zeros(len(velocity), dtype=np.float32)
    values = np.where(known[:, None], velocity[:, genes], 0.0)
    for rows in _chunks(np.flatnonzero(known), neighbours.shape[1] * values.shape[1]):
        around = known[neighbours[rows]]
        correlation = _cosines(values[neighbours[rows]], values[rows], centred=centred) * around
        mean = correlation.sum(axis=1) / np.maximum(around.sum(axis=1), 1)
        confidence[rows] = np.clip(mean, 0.0, 1.0)
    return confidence


def known_block(
    velocity: Float[np.ndarray, "cells genes"],
) -> tuple[Bool[np.ndarray, " cells"], Bool[np.ndarray, " genes"]]:
    """Cells that have a velocity, and the genes known in all of those.

    Raises:
        UserError: there is no such gene.
    """
    missing = np.isnan(velocity)
    known = ~np.all(missing, axis=1)
    genes = ~np.any(missing[known], axis=0)
    if not known.any() or not genes.any():
        raise UserError(
            "no gene has a velocity in every cell that has one; leave out the cells or the genes "
            "whose velocity is incomplete (var['velocity_genes'])."
        )
    return known, genes


def _chunks(rows: np.ndarray, values_a_row: int) -> Iterator[np.ndarray]:
    """The rows in parts whose gathered float64 values fit into the chunk size."""
    size = max(1, _CHUNK_BYTES // (8 * values_a_row))
    return (rows[i : i + size] for i in range(0, len(rows), size))


def _cosines(
    a: Float[np.ndarray, "cells k genes"],
    b: Float[np.ndarray, "cells genes"],
    *,
    centred: bool = True,
) -> Float[np.ndarray, "cells k"]:
    """Cosines of (gene-centred) vectors in float64; 0 where one of them has no length."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    if centred:
        a, b = (x - x.mean(axis=-1, keepdims=True) for x in (a, b))
    scale = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)[:, None]
    return np.einsum("ckg,cg->ck", a, b) / np.where(scale > 0, scale, np.inf)
