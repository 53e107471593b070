"""What the metrics take from the training cells, and from nothing else.

Owns the choice of genes, the space that distances are measured in, the mean delta of each
perturbation, and the classifier of cell types. Genes are ranked by Welch's t of treated against
control, combined over strata with equal weight:

    t = sum_s d_s / sqrt(sum_s v_s),   d_s = mean T_s - mean C_s,   v_s = var T_s/n_T + var C_s/n_C

For one stratum this is Welch (1947, Biometrika 34, 28-35). Differences are taken inside a
stratum, so a delta in the mixture of cell types between the arms ranks no gene.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from wound_jax.data.strata import Stratum
from wound_jax.errors import UserError

# Cells that the principal components are fitted on, at most: more change them little.
_MAX_PCA_CELLS = 20_000
# Fewer cells in an arm than this give variances too uncertain to rank genes by.
_MIN_CELLS_TO_RANK = 10
# Cells of each arm of a stratum that the classifier of types learns from, at most.
_MAX_CELLS_TO_CLASSIFY = 200
# A type of fewer training cells is not learnt.
_MIN_CELLS_TO_CLASSIFY = 10


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
        mean_deltas: perturbation -> [genes], mean treated-minus-control delta over the training
            strata, each with equal weight; under None over all perturbations.
        classifier: cell type from coordinates on the components; None where training has fewer
            than two types to tell apart.
        seed: seed of the subsamples that equalise the sizes of the sets.
        max_cells: cells of each set that pairwise work on the components uses, at most.
        max_gene_cells: cells of each set that work on all genes uses, at most; among the others.
    """

    top_genes: Mapping[tuple[str, str], Int[np.ndarray, " top"]]
    pooled_top_genes: Mapping[str | None, Int[np.ndarray, " top"]]
    pca_mean: Float[np.ndarray, " genes"]
    pca_components: Float[np.ndarray, "dims genes"]
    mean_deltas: Mapping[str | None, Float[np.ndarray, " genes"]]
    classifier: LinearDiscriminantAnalysis | None
    seed: int
    max_cells: int
    max_gene_cells: int

    def top_genes_of(self, stratum: Stratum) -> Int[np.ndarray, " top"]:
        """Indices of the training genes to score a stratum on.

        The type's own ranking where its treated cells were in training, else the ranking over
        all types, under this perturbation where it was in training, else under all.
        """
        own = self.top_genes.get((stratum.cell_type, stratum.perturbation))
        return _of_perturbation(self.pooled_top_genes, stratum) if own is None else own

    def mean_delta_of(self, stratum: Stratum) -> Float[np.ndarray, " genes"]:
        """The mean training delta of the perturbation, over all where training lacks it."""
        return _of_perturbation(self.mean_deltas, stratum)

    def project(self, cells: Float[np.ndarray, "cells genes"]) -> Float[np.ndarray, "cells dims"]:
        """Coordinates on the training components, float64 [cells, dims]."""
        return (cells - self.pca_mean) @ self.pca_components.T

    def share_of_type(self, coordinates: Float[np.ndarray, "cells dims"], cell_type: str) -> float:
        """Share of cells that the classifier takes for a type; NaN where it does not know it.

        Args:
            coordinates: cells on the training components, from `project`.
            cell_type: label of the type.
        """
        if self.classifier is None or cell_type not in self.classifier.classes_:
            return float("nan")
        return float(np.mean(self.classifier.predict(coordinates) == cell_type))


def _of_perturbation(by_perturbation: Mapping[str | None, Any], stratum: Stratum) -> Any:
    known = stratum.perturbation in by_perturbation
    return by_perturbation[stratum.perturbation if known else None]


def fit_context(
    training: Sequence[Stratum],
    cells: Float[np.ndarray, "cells genes"],
    *,
    n_pcs: int,
    n_top_genes: int,
    seed: int,
    max_cells: int = 1024,
    max_gene_cells: int = 512,
) -> ScoreContext:
    """Choose genes, fit components, deltas and classifier, on training cells only.

    Args:
        training: the strata of the training split.
        cells: [cells, genes], all training cells, control and treated, one row each; a seeded
            subsample of at most 20,000 is used.
        n_pcs: principal components wanted; fewer are kept where cells or genes are fewer.
        n_top_genes: genes per ranking; all are kept where there are fewer.
        seed: seed of the subsamples and of the randomised decomposition (Halko, Martinsson and
            Tropp 2011, SIAM Rev. 53, 217-288).
        max_cells, max_gene_cells: see `ScoreContext`.

    Raises:
        UserError: there are fewer than two training cells, or no training stratum has enough
            cells in both arms to rank genes.
    """
    mean, components = _principal_components(cells, n_pcs, seed)
    own, pooled = _rankings(training, n_top_genes)
    return ScoreContext(
        top_genes=own,
        pooled_top_genes=pooled,
        pca_mean=mean,
        pca_components=components,
        mean_deltas=_mean_deltas(training),
        classifier=_fit_classifier(training, mean, components, seed),
        seed=seed,
        max_cells=max_cells,
        max_gene_cells=max_gene_cells,
    )


def cells_for_components(n: int, seed: int) -> Int[np.ndarray, " cells"]:
    """Which of `n` training cells the components are fitted on, ascending: at most 20,000."""
    if n <= _MAX_PCA_CELLS:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, _MAX_PCA_CELLS, replace=False))


def _principal_components(
    cells: Float[np.ndarray, "cells genes"], n_pcs: int, seed: int
) -> tuple[Float[np.ndarray, " genes"], Float[np.ndarray, "dims genes"]]:
    """Mean and leading principal axes of at most `_MAX_PCA_CELLS` cells, float64."""
    if len(cells) < 2:
        raise UserError(
            f"{len(cells)} training cell(s) to fit principal components on; expected at least 2. "
            "Check that the split leaves training cells."
        )
    cells = cells[cells_for_components(len(cells), seed)]
    n_kept = min(n_pcs, len(cells) - 1, cells.shape[1])
    pca = PCA(n_kept, svd_solver="randomized", random_state=seed).fit(cells)
    return np.asarray(pca.mean_, np.float64), np.asarray(pca.components_, np.float64)


def _mean_deltas(training: Sequence[Stratum]) -> dict[str | None, np.ndarray]:
    """The mean delta of each perturbation, and of all strata."""
    deltas: dict[str | None, list[np.ndarray]] = {None: []}
    for stratum in training:
        if stratum.n_treated:
            deltas[None].append(stratum.mean_delta)
            deltas.setdefault(stratum.perturbation, []).append(stratum.mean_delta)
    return {perturbation: np.mean(of, axis=0) for perturbation, of in deltas.items()}


def _fit_classifier(
    training: Sequence[Stratum],
    mean: Float[np.ndarray, " genes"],
    components: Float[np.ndarray, "dims genes"],
    seed: int,
) -> LinearDiscriminantAnalysis | None:
    """Linear discriminants of the cell types, from control and treated cells, all types alike.

    Covariances are shrunk by Ledoit and Wolf (2004, J. Multivar. Anal. 88, 365-411).
    """
    rng = np.random.default_rng(seed)
    by_type: dict[str, list[np.ndarray]] = {}
    for stratum in training:
        for arm in (stratum.control, stratum.treated):
            chosen = rng.permutation(len(arm))[:_MAX_CELLS_TO_CLASSIFY]
            projected = (arm[chosen] - mean) @ components.T
            by_type.setdefault(stratum.cell_type, []).append(projected)
    cells = {name: np.concatenate(arms) for name, arms in by_type.items()}
    known = [name for name, of_type in cells.items() if len(of_type) >= _MIN_CELLS_TO_CLASSIFY]
    if len(known) < 2:
        return None
    labels = np.repeat(known, [len(cells[name]) for name in known])
    priors = np.full(len(known), 1.0 / len(known))
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=priors)
    return model.fit(np.concatenate([cells[name] for name in known]), labels)


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
