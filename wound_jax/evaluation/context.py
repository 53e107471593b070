"""What the metrics take from the training cells, and from nothing else.

Owns the choice of genes and of the space that distances are measured in. Genes are ranked by
Welch's t of treated against control, combined over strata with equal weight:

    t = sum_s d_s / sqrt(sum_s v_s),   d_s = mean T_s - mean C_s,   v_s = var T_s/n_T + var C_s/n_C

For one stratum this is Welch (1947, Biometrika 34, 28-35). Differences are taken inside a
stratum, so a shift in the mixture of cell types between the arms ranks no gene.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from sklearn.decomposition import PCA

from wound_jax.errors import UserError
from wound_jax.evaluation.strata import Stratum

# Cells that the principal components are fitted on, at most: more change them little.
_MAX_PCA_CELLS = 20_000
# Fewer cells in an arm than this give variances too uncertain to rank genes by.
_MIN_CELLS_TO_RANK = 10


@dataclass(frozen=True, eq=False)
class ScoreContext:
    """The training-only part of the metrics.

    Attributes:
        top_genes: (cell type, perturbation) -> indices of the genes that respond most in the
            training cells of that type, strongest first.
        pooled_top_genes: the same over all cell types, by perturbation; under None over all
            perturbations.
        pca_mean: [genes], mean of the training cells.
        pca_components: [dims, genes], principal axes of the training cells, orthonormal.
        seed: seed of the subsamples that equalise the sizes of the sets.
        max_cells: cells of each set that pairwise distances use, at most.
    """

    top_genes: Mapping[tuple[str, str], Int[np.ndarray, " top"]]
    pooled_top_genes: Mapping[str | None, Int[np.ndarray, " top"]]
    pca_mean: Float[np.ndarray, " genes"]
    pca_components: Float[np.ndarray, "dims genes"]
    seed: int
    max_cells: int

    def top_genes_of(self, stratum: Stratum) -> Int[np.ndarray, " top"]:
        """Indices of the training genes to score a stratum on.

        The type's own ranking where its treated cells were in training, else the ranking over
        all types, under this perturbation where it was in training, else under all.
        """
        own = self.top_genes.get((stratum.cell_type, stratum.perturbation))
        if own is not None:
            return own
        pooled = self.pooled_top_genes
        return pooled[stratum.perturbation if stratum.perturbation in pooled else None]

    def project(self, cells: Float[np.ndarray, "cells genes"]) -> Float[np.ndarray, "cells dims"]:
        """Coordinates on the training components, float64 [cells, dims]."""
        return (cells - self.pca_mean) @ self.pca_components.T


def fit_context(
    training: Sequence[Stratum],
    cells: Float[np.ndarray, "cells genes"],
    *,
    n_pcs: int,
    n_top_genes: int,
    seed: int,
    max_cells: int = 1024,
) -> ScoreContext:
    """Choose genes and fit the principal components, on training cells only.

    Args:
        training: the strata of the training split.
        cells: [cells, genes], all training cells, control and treated, one row each; a seeded
            subsample of at most 20,000 is used.
        n_pcs: principal components wanted; fewer are kept where cells or genes are fewer.
        n_top_genes: genes per ranking; all are kept where there are fewer.
        seed: seed of the subsamples and of the randomised decomposition (Halko, Martinsson and
            Tropp 2011, SIAM Rev. 53, 217-288).
        max_cells: see `ScoreContext`.

    Returns:
        The context.

    Raises:
        UserError: there are fewer than two training cells, or no training stratum has enough
            cells in both arms to rank genes.
    """
    if len(cells) < 2:
        raise UserError(
            f"{len(cells)} training cell(s) to fit principal components on; expected at least 2. "
            "Check that the split leaves training cells."
        )
    mean, components = _principal_components(cells, n_pcs, seed)
    own, pooled = _rankings(training, n_top_genes)
    return ScoreContext(own, pooled, mean, components, seed, max_cells)


def _principal_components(
    cells: Float[np.ndarray, "cells genes"], n_pcs: int, seed: int
) -> tuple[Float[np.ndarray, " genes"], Float[np.ndarray, "dims genes"]]:
    """Mean and leading principal axes of at most `_MAX_PCA_CELLS` cells, float64."""
    if len(cells) > _MAX_PCA_CELLS:
        chosen = np.random.default_rng(seed).choice(len(cells), _MAX_PCA_CELLS, replace=False)
        cells = cells[np.sort(chosen)]
    n_kept = min(n_pcs, len(cells) - 1, cells.shape[1])
    pca = PCA(n_kept, svd_solver="randomized", random_state=seed).fit(cells)
    return np.asarray(pca.mean_, np.float64), np.asarray(pca.components_, np.float64)


def _rankings(
    training: Sequence[Stratum], n_top_genes: int
) -> tuple[dict[tuple[str, str], np.ndarray], dict[str | None, np.ndarray]]:
    """The top genes of each (type, perturbation), of each perturbation, and of all strata."""
    usable = [s for s in training if min(s.n_control, s.n_treated) >= _MIN_CELLS_TO_RANK]
    if not usable:
        raise UserError(
            f"none of the {len(training)} training strata has {_MIN_CELLS_TO_RANK} control and "
            "treated cells, which ranking the responding genes needs. Hold out less or merge "
            "rare cell types."
        )
    own: dict[tuple[str, str], list[Stratum]] = {}
    pooled: dict[str | None, list[Stratum]] = {None: usable}
    for stratum in usable:
        own.setdefault((stratum.cell_type, stratum.perturbation), []).append(stratum)
        pooled.setdefault(stratum.perturbation, []).append(stratum)
    return (
        {key: _most_responding(strata, n_top_genes) for key, strata in own.items()},
        {key: _most_responding(strata, n_top_genes) for key, strata in pooled.items()},
    )


def _most_responding(strata: Iterable[Stratum], n: int) -> Int[np.ndarray, " top"]:
    """The n genes of largest |t| (module docstring); ties go to the lower index."""
    difference, variance = np.sum([_welch_terms(stratum) for stratum in strata], axis=0)
    constant = variance == 0
    t = np.abs(difference) / np.sqrt(np.where(constant, 1.0, variance))
    # Constant in every arm: either no difference at all, or one without any spread.
    t[constant] = np.where(difference[constant] == 0, 0.0, np.inf)
    return np.argsort(-t, kind="stable")[:n]


def _welch_terms(stratum: Stratum) -> Float[np.ndarray, "2 genes"]:
    """Difference of the means and its variance, float64 [2, genes]."""
    variance = sum(
        cells.var(axis=0, ddof=1, dtype=np.float64) / len(cells)
        for cells in (stratum.control, stratum.treated)
    )
    return np.stack([stratum.mean_delta, np.asarray(variance)])
