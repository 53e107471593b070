"""Metrics of mean profiles: the mean predicted cell P against the mean treated cell T.

    delta P = mean P - mean C,        delta T = mean T - mean C,        C the matched control cells

A metric of deltas asks what the perturbation changed. One of the means themselves mostly asks what
the cell type is, which a copy of the control cells answers; those are not ranked. None of them sees
the spread of the cells: a prediction of identical cells can be perfect here.
"""

import numpy as np
from jaxtyping import Float

from wound_jax.evaluation.metrics.comparison import ZERO_DELTA, Comparison
from wound_jax.evaluation.metrics.registry import metric

_PASSED_BY_IDENTITY = "a copy of the control cells comes close to 1"


@metric("pearson_delta", best_value=1.0)
def pearson_delta(comparison: Comparison) -> float:
    """Correlation over all genes of the predicted with the true change of the mean.

    corr(mean P - mean C, mean T - mean C), `pearson_delta` of cell-eval 0.8.2. A predicted delta
    that is zero or the same for all genes scores 0; a true one gives NaN.
    """
    return _delta_correlation(comparison, slice(None))


@metric("pearson_delta_top100", best_value=1.0)
def pearson_delta_top100(comparison: Comparison) -> float:
    """`pearson_delta` over the genes that respond most in training cells (100 by default).

    The genes are `ScoreContext.top_genes_of`; none is chosen on the cells that are scored.
    """
    return _delta_correlation(comparison, comparison.context.top_genes_of(comparison.stratum))


@metric("pearson_delta_residual", best_value=1.0)
def pearson_delta_residual(comparison: Comparison) -> float:
    """Correlation of predicted and true change beyond the mean change of all training strata.

    corr(delta P - g, delta T - g), with g the mean training delta of the perturbation
    (`ScoreContext.mean_delta_of`): what is specific of the cell type and timepoint. A prediction
    of g scores 0 up to clipping at 0, which by itself tells the types apart. The identity scores
    corr(-g, delta T - g), above 0 in strata that respond less than the mean: compare with it.
    """
    shared = comparison.context.mean_delta_of(comparison.stratum)
    predicted = comparison.predicted_delta - shared
    nothing = np.linalg.norm(predicted) <= ZERO_DELTA * np.linalg.norm(
        comparison.stratum.control_mean
    )
    return correlation(np.zeros(1) if nothing else predicted, comparison.true_delta - shared)


@metric("delta_is_zero", best_value=None)
def delta_is_zero(comparison: Comparison) -> float:
    """1 where the predicted change is zero, so that correlations are 0 by decree; else 0."""
    return float(comparison.predicts_no_change)


@metric("cosine_delta", best_value=1.0)
def cosine_delta(comparison: Comparison) -> float:
    """Cosine of the predicted and the true change of the mean.

    <delta P, delta T> / (|delta P| |delta T|) over all genes: `pearson_delta` without taking the
    means over genes off. 0 for a predicted delta of zero, NaN for a true one.
    """
    predicted, true = comparison.predicted_delta, comparison.true_delta
    if not true.any():
        return float("nan")
    if comparison.predicts_no_change:
        return 0.0
    return float(predicted @ true / (np.linalg.norm(predicted) * np.linalg.norm(true)))


@metric("sign_share", best_value=1.0)
def sign_share(comparison: Comparison) -> float:
    """Whether the predicted change points the right way; its mean is a share of strata.

    1 where `cosine_delta` > 0, else 0. Chance is 1/2 and no achievement: a mean delta passes.
    """
    cosine = cosine_delta(comparison)
    return cosine if np.isnan(cosine) else float(cosine > 0)


@metric("mse", best_value=0.0)
def mse(comparison: Comparison) -> float:
    """Mean over genes of (mean P - mean T)^2: of mean profiles, not of single cells.

    `mse` and `mse_delta` of cell-eval 0.8.2, which are one where the control cells are the same.
    """
    return float(np.square(comparison.predicted_delta - comparison.true_delta).mean())


@metric("mae", best_value=0.0)
def mae(comparison: Comparison) -> float:
    """Mean over genes of |mean P - mean T|: of mean profiles, not of single cells.

    `mae` and `mae_delta` of cell-eval 0.8.2.
    """
    return float(np.abs(comparison.predicted_delta - comparison.true_delta).mean())


@metric("r2_delta", best_value=1.0)
def r2_delta(comparison: Comparison) -> float:
    """Share of the variance over genes of the true change that the prediction explains.

    1 - sum (delta P - delta T)^2 / sum (delta T - its mean)^2. Unlike a correlation it asks for
    the right size. The identity scores 0 or a little less, a change too far below 0; NaN where
    all genes change alike.
    """
    return _explained(comparison.predicted_delta, comparison.true_delta)


@metric("r2_mean", best_value=None, trap=_PASSED_BY_IDENTITY)
def r2_mean(comparison: Comparison) -> float:
    """Share of the variance over genes of the mean treated cell that the mean prediction explains.

    1 - sum (mean P - mean T)^2 / sum (mean T - its mean)^2, as published for many models. Not
    ranked: most of that variance is the difference between high and low genes, which control
    cells share. Read it beside its value for the identity.
    """
    control = comparison.stratum.control_mean
    return _explained(comparison.predicted_delta + control, comparison.true_delta + control)


@metric("pearson_mean", best_value=None, trap=_PASSED_BY_IDENTITY)
def pearson_mean(comparison: Comparison) -> float:
    """Correlation over genes of the mean predicted with the mean treated cell.

    Not ranked, for the reason given at `r2_mean`: the identity scores about .96.
    """
    control = comparison.stratum.control_mean
    return correlation(comparison.predicted_delta + control, comparison.true_delta + control)


def correlation(predicted: Float[np.ndarray, " x"], true: Float[np.ndarray, " y"]) -> float:
    """Pearson correlation; NaN for a constant truth, 0 for a constant prediction."""
    if np.ptp(true) == 0:
        return float("nan")
    if np.ptp(predicted) == 0:
        return 0.0
    return float(np.corrcoef(predicted, true)[0, 1])


def _delta_correlation(comparison: Comparison, genes: np.ndarray | slice) -> float:
    predicted = comparison.predicted_delta[genes]
    if comparison.predicts_no_change:
        predicted = np.zeros_like(predicted)
    return correlation(predicted, comparison.true_delta[genes])


def _explained(predicted: Float[np.ndarray, " genes"], true: Float[np.ndarray, " genes"]) -> float:
    """The coefficient of determination; NaN for a constant truth."""
    total = np.square(true - true.mean()).sum()
    return float(1 - np.square(predicted - true).sum() / total) if total > 0 else float("nan")
