"""Metrics of what makes a population: spread, co-expression, zeros, and keeping the cell type.

A prediction of the mean cell, repeated, is perfect in every metric of means; in the first three
of these it fails. One that only deltas the control cells keeps their spread and co-expression.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from wound_jax.evaluation.metrics.comparison import Comparison, RealStratum, take
from wound_jax.evaluation.metrics.profiles import correlation
from wound_jax.evaluation.metrics.registry import metric

# Against the root mean square of a gene: a smaller standard deviation is rounding of float32.
_CONSTANT = 1e-6
# Fewer cells or genes than this have no correlations worth comparing.
_FEWEST = 3


@metric("variance_ratio", best_value=1.0, direction="nearer")
def variance_ratio(comparison: Comparison) -> float:
    """Total variance of the predicted over that of the treated cells, on the training components.

    tr cov(P) / tr cov(T): 0 for one cell repeated, above 1 where predictions scatter too widely.
    NaN where the treated cells do not vary or are fewer than two.
    """
    _, treated, predicted = comparison.projected
    if len(treated) < 2 or not (spread := treated.var(axis=0).sum()):
        return float("nan")
    return float(predicted.var(axis=0).sum() / spread)


@metric("gene_correlation_agreement", best_value=1.0)
def gene_correlation_agreement(comparison: Comparison) -> float:
    """Agreement of the gene-gene correlations of predicted and treated cells.

    Pearson correlation of the upper triangles of the two correlation matrices over cells, of the
    genes that respond most in training cells (`ScoreContext.top_genes_of`, 100 by default), equally
    many cells of both. Genes constant in the treated cells are left out; one constant in the
    predicted cells correlates 0 with all others. Sampling alone keeps it below 1. NaN where fewer
    than three cells or genes are left.
    """
    genes, measured = comparison.real.once(_measured_coexpression)
    if not len(measured):
        return float("nan")
    predicted = take(comparison.predicted, comparison.real.order[0])
    return correlation(_coexpression(predicted[:, genes]), measured)


@metric("zero_share_error", best_value=0.0)
def zero_share_error(comparison: Comparison) -> float:
    """Mean over genes of the difference between the shares of zeros, predicted and treated.

    mean_g |share of P with x_g = 0 - share of T with x_g = 0|, over all cells. NaN in a space with
    negative values or without zeros, where a zero means nothing.
    """
    zeros = comparison.real.once(_treated_zero_shares)
    if not comparison.real.non_negative or not zeros.any():
        return float("nan")
    return float(np.abs((comparison.predicted == 0).mean(axis=0) - zeros).mean())


@metric("type_kept", best_value=1.0)
def type_kept(comparison: Comparison) -> float:
    """Share of predicted cells that a classifier of real cells takes for their own cell type.

    Linear discriminants on the training components, fitted on control and treated training cells,
    all types alike (`ScoreContext.classifier`). It says that a cell is still of its type, not that
    it responds: the identity does well and a repeated mean cell perfectly. NaN for a type that
    training lacks. Read it beside `type_kept_treated`.
    """
    return comparison.context.share_of_type(comparison.projected[2], comparison.stratum.cell_type)


@metric("type_kept_treated", best_value=None)
def type_kept_treated(comparison: Comparison) -> float:
    """`type_kept` of the treated cells themselves: what the classifier can do."""
    return comparison.real.once(_treated_type_share)


def _treated_type_share(real: RealStratum) -> float:
    return real.context.share_of_type(real.projected[1], real.stratum.cell_type)


def _treated_zero_shares(real: RealStratum) -> Float[np.ndarray, " genes"]:
    return (real.stratum.treated == 0).mean(axis=0)


def _constant(cells: Float[np.ndarray, "cells genes"]) -> Bool[np.ndarray, " genes"]:
    """Genes that vary no more than rounding."""
    size = np.sqrt(np.square(cells, dtype=np.float64).mean(axis=0))
    return cells.std(axis=0, dtype=np.float64) <= _CONSTANT * size


def _measured_coexpression(
    real: RealStratum,
) -> tuple[Int[np.ndarray, " genes"], Float[np.ndarray, " pairs"]]:
    """The responding genes that vary in the treated cells, and how they correlate there."""
    _, treated = real.samples(real.context.max_cells)
    genes = real.context.top_genes_of(real.stratum)
    genes = genes[~_constant(treated[:, genes])]
    told = len(treated) >= _FEWEST and len(genes) >= _FEWEST
    return genes, _coexpression(treated[:, genes]) if told else np.zeros(0)


def _coexpression(cells: Float[np.ndarray, "cells genes"]) -> Float[np.ndarray, " pairs"]:
    """Correlations of all pairs of genes; 0 for genes that do not vary."""
    constant = _constant(cells)
    centred = cells - cells.mean(axis=0, dtype=np.float64)
    norms = np.where(constant, 1.0, np.linalg.norm(centred, axis=0))
    units = np.where(constant, 0.0, centred / norms)
    return (units.T @ units)[np.triu_indices(len(constant), k=1)]
