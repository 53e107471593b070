"""Pseudotime of cells, and the transitions between neighbours that follow it.

Diffusion pseudotime (Haghverdi et al. 2016, Nat. Methods 13, 845; scanpy's) is measured from a
root: the control cell at the medoid of the control cells, the one nearest to all others. A kNN
graph is then biased towards later cells (CellRank's pseudotime kernel, Lange et al. 2022, Nat.
Methods 19, 159). With dt = t_j - t_i, times in [0, 1], for the k neighbours j of a cell i,

    T_ij = w_ij / sum_j w_ij
    soft   w = 1 for dt >= 0, else 2 / (1 + exp(-b dt))^2, b = 10     (VIA: Stassen et al. 2021,
                                                                     Nat. Commun. 12, 5528)
    hard   w = 1 for dt >= 0 and for the nearest 30 % of the neighbours, else 0
                                        (Palantir: Setty et al. 2019, Nat. Biotechnol. 37, 451)

and `wound_jax.data.velocity.graph.drift` turns T into displacements. A cell whose neighbours are
all later has uniform transitions under both, hence no direction.
"""

from typing import Literal

import anndata as ad
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial.distance import cdist

from wound_jax.errors import unknown_name

Scheme = Literal["soft", "hard"]
# Fewer cells than this have no eigenvectors worth the name.
MIN_CELLS = 20
_STEEPNESS = 10.0
_SHARE_KEPT = 0.3
# Rows of a distance matrix computed at once.
_BLOCK = 1_024


def forward_transitions(
    pseudotime: Float[np.ndarray, " cells"],
    neighbours: Int[np.ndarray, "cells k"],
    scheme: Scheme = "soft",
) -> Float[np.ndarray, "cells k"]:
    """Transition probabilities from each cell to its neighbours, biased towards later ones.

    Args:
        pseudotime: [cells] in [0, 1], finite.
        neighbours: [cells, k], nearest first.
        scheme: "soft" weighs earlier neighbours down, "hard" drops those that are not near.

    Returns:
        float64 [cells, k], rows summing to one.

    Raises:
        UserError: an unknown scheme.
    """
    ahead = pseudotime[neighbours].astype(np.float64) - pseudotime[:, None]
    if scheme == "soft":
        weight = np.where(ahead < 0, 2.0 / (1.0 + np.exp(-_STEEPNESS * ahead)) ** 2, 1.0)
    elif scheme == "hard":
        k = neighbours.shape[1]
        near = np.arange(k) < max(1, int(_SHARE_KEPT * k))
        weight = (near | (ahead >= 0)).astype(np.float64)
    else:
        raise unknown_name("pseudotime scheme", scheme, ("soft", "hard"))
    return weight / weight.sum(axis=1, keepdims=True)


def control_rooted_pseudotime(
    embedding: Float[np.ndarray, "cells dims"],
    is_control: Bool[np.ndarray, " cells"],
    n_neighbours: int,
) -> Float[np.ndarray, " cells"]:
    """Diffusion pseudotime of the cells of one type, from the medoid of its control cells.

    Args:
        embedding: [cells, dims], more than `n_neighbours` cells.
        is_control: [cells], at least one.
        n_neighbours: of the graph.

    Returns:
        float64 [cells] in [0, 1]; NaN for cells that the graph does not connect with the root.
    """
    controls = np.flatnonzero(is_control)
    root = int(controls[medoid(embedding[controls])])
    return diffusion_pseudotime(embedding, root, n_neighbours)


def diffusion_pseudotime(
    embedding: Float[np.ndarray, "cells dims"], root: int, n_neighbours: int
) -> Float[np.ndarray, " cells"]:
    """scanpy's diffusion pseudotime on an exact graph with Gaussian weights.

    Args:
        embedding: [cells, dims].
        root: position of the cell at time 0.
        n_neighbours: of the graph, the cell itself included as scanpy counts.

    Returns:
        float64 [cells] in [0, 1]; NaN for cells that the graph does not connect with the root.
    """
    import scanpy as sc

    cells = ad.AnnData(np.zeros((len(embedding), 1), dtype=np.float32))
    cells.obsm["embedding"] = embedding
    # The approximate search that scanpy takes for many cells depends on their order.
    sc.pp.neighbors(
        cells,
        n_neighbors=n_neighbours,
        use_rep="embedding",
        method="gauss",
        transformer="sklearn",
    )
    sc.tl.diffmap(cells)
    cells.uns["iroot"] = root
    sc.tl.dpt(cells)
    time = cells.obs["dpt_pseudotime"].to_numpy(dtype=np.float64)
    return np.where(np.isfinite(time), time, np.nan)


def medoid(embedding: Float[np.ndarray, "cells dims"]) -> int:
    """The cell with the smallest mean Euclidean distance to all cells; the first where they tie."""
    blocks = (embedding[i : i + _BLOCK] for i in range(0, len(embedding), _BLOCK))
    return int(np.argmin(np.concatenate([cdist(b, embedding).mean(axis=1) for b in blocks])))


def unit_interval(time: Float[np.ndarray, " cells"]) -> Float[np.ndarray, " cells"]:
    """Times moved and scaled to [0, 1]; NaN stays, and equal times become 0."""
    low, high = np.nanmin(time), np.nanmax(time)
    return (time - low) / (high - low if high > low else 1.0)
