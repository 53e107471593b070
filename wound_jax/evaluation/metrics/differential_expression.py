"""Metrics of differential expression: the same genes, the same signs, the same order.

Real and predicted response are each tested against the same REAL control cells, equally many cells
of the three (`Comparison.gene_samples`), as cell-eval 0.8.2 does (`rank_sum`). The names and the
definitions are its own; they need log1p values. Two properties of the test bear on all of them:

- how many genes are significant grows with the number of cells;
- cells ranked against control cells full of zeros become significant by any delta of the zeros,
  however small. A prediction that adds 0.001 to a gene has changed all its ranks.
"""

import functools
from collections.abc import Callable

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, roc_auc_score

from wound_jax.evaluation.metrics.comparison import Comparison, RealStratum
from wound_jax.evaluation.metrics.profiles import correlation
from wound_jax.evaluation.metrics.rank_sum import DifferentialExpression, differential_expression
from wound_jax.evaluation.metrics.registry import metric

# Adjusted p values below it count as it in the areas under curves.
_SMALLEST_FDR = 1e-10

OfResponses = Callable[[DifferentialExpression, DifferentialExpression], float]


def response_metric(
    name: str, best_value: float | None = 1.0
) -> Callable[[OfResponses], OfResponses]:
    """Decorator: registers a function of the measured and the predicted response."""

    def register(function: OfResponses) -> OfResponses:
        @functools.wraps(function)
        def compute(comparison: Comparison) -> float:
            return function(
                comparison.real.once(measured_response), comparison.once(predicted_response)
            )

        metric(name, best_value)(compute)
        return function

    return register


def measured_response(real: RealStratum) -> DifferentialExpression:
    """Treated against control cells."""
    control, treated = real.samples(real.context.max_gene_cells)
    return differential_expression(treated, control, non_negative=real.non_negative)


def predicted_response(comparison: Comparison) -> DifferentialExpression:
    """Predicted against control cells."""
    control, _, predicted = comparison.gene_samples
    return differential_expression(predicted, control, non_negative=comparison.real.non_negative)


@response_metric("de_direction_match")
def direction_match(true: DifferentialExpression, predicted: DifferentialExpression) -> float:
    """Share of the truly responding genes whose predicted change has the right sign.

    Over the genes of measured fdr < 0.05, whether or not they are significant in the prediction;
    a predicted change of 0 has the wrong sign. NaN where no gene responds.
    """
    genes = true.significant
    if not genes.any():
        return float("nan")
    return float(np.mean(np.sign(true.effect[genes]) == np.sign(predicted.effect[genes])))


@response_metric("de_spearman_lfc_sig")
def spearman_lfc(true: DifferentialExpression, predicted: DifferentialExpression) -> float:
    """Rank correlation of true and predicted log fold changes of the truly responding genes.

    Over the genes of measured fdr < 0.05. NaN with fewer than two of them, 0 where the prediction
    changes all of them alike (cell-eval gives NaN there).
    """
    genes = true.significant
    if genes.sum() < 2:
        return float("nan")
    return correlation(rankdata(predicted.effect[genes]), rankdata(true.effect[genes]))


@response_metric("de_sig_genes_recall")
def sig_genes_recall(true: DifferentialExpression, predicted: DifferentialExpression) -> float:
    """Share of the truly responding genes that are significant in the prediction, either way.

    Genes of fdr < 0.05. A prediction in which all genes respond scores 1: read it beside
    `precision_at_N`. NaN where no gene responds.
    """
    genes = true.significant
    return float(predicted.significant[genes].mean()) if genes.any() else float("nan")


@response_metric("roc_auc")
def roc_auc(true: DifferentialExpression, predicted: DifferentialExpression) -> float:
    """Area under the ROC curve of finding the truly responding genes by predicted significance.

    Positives have a measured fdr < 0.05; the score is -log10 of the predicted fdr, at most 10.
    The identity scores 0.5; NaN where no gene responds or all do.
    """
    return _area(roc_auc_score, true, predicted)


@response_metric("pr_auc")
def pr_auc(true: DifferentialExpression, predicted: DifferentialExpression) -> float:
    """Average precision of finding the truly responding genes by predicted significance.

    As `roc_auc`. The identity scores the share of responding genes, so values of strata with
    different shares do not compare.
    """
    return _area(average_precision_score, true, predicted)


@response_metric("de_nsig_counts_real", best_value=None)
def nsig_real(true: DifferentialExpression, predicted: DifferentialExpression) -> float:
    """Number of genes with a measured fdr < 0.05."""
    return float(true.significant.sum())


@response_metric("de_nsig_counts_pred", best_value=None)
def nsig_pred(true: DifferentialExpression, predicted: DifferentialExpression) -> float:
    """Number of genes with a predicted fdr < 0.05."""
    return float(predicted.significant.sum())


def overlap(
    true: DifferentialExpression, predicted: DifferentialExpression, k: int | None
) -> float:
    """Share of the k truly strongest genes among the k strongest in the prediction.

    Args:
        true: measured response.
        predicted: predicted response.
        k: how many genes, all that respond if fewer do; None takes all.

    Returns:
        The share; NaN where no gene truly responds.
    """
    return _shared(true, predicted, _count(true, k)) if true.ranked.size else float("nan")


def precision(
    true: DifferentialExpression, predicted: DifferentialExpression, k: int | None
) -> float:
    """As `overlap`, with k at most the number of genes that respond in the prediction.

    Returns:
        The share; 0 where no gene responds in the prediction, NaN where none truly does.
    """
    if not true.ranked.size:
        return float("nan")
    k = _count(predicted, k)
    return _shared(true, predicted, k) if k else 0.0


def _count(response: DifferentialExpression, k: int | None) -> int:
    n = response.ranked.size
    return n if k is None else min(k, n)


def _shared(true: DifferentialExpression, predicted: DifferentialExpression, k: int) -> float:
    return np.intersect1d(true.ranked[:k], predicted.ranked[:k]).size / k


def _area(area: Callable, true: DifferentialExpression, predicted: DifferentialExpression) -> float:
    if true.significant.all() or not true.significant.any():
        return float("nan")
    return float(area(true.significant, -np.log10(np.clip(predicted.fdr, _SMALLEST_FDR, 1.0))))


_TOP = """{what} of the {top} genes with the largest |log fold change|.

Among the genes of fdr < 0.05, |top k measured and top k predicted| / k with {k}.
NaN where no gene truly responds; cell-eval gives 0 there, for a perfect prediction too.{none}
"""


def _register_top(k: int | None) -> None:
    """`overlap_at_k` and `precision_at_k`, with k = None as N."""
    top = "significant" if k is None else f"{k} significant"
    for name, function, what, arm, none in (
        ("overlap", overlap, "Overlap", "measured", ""),
        (
            "precision",
            precision,
            "Precision",
            "predicted",
            "\n0 where none does in the prediction.",
        ),
    ):
        of_arm = f"as many as {arm}" if k is None else f"{k} or, if fewer, as many as {arm}"

        def compute(
            true: DifferentialExpression, predicted: DifferentialExpression, function=function
        ) -> float:
            return function(true, predicted, k)

        compute.__doc__ = _TOP.format(what=what, top=top, k=f"k = {of_arm}", none=none)
        response_metric(f"{name}_at_{k or 'N'}")(compute)


for _k in (None, 50, 100, 200, 500):
    _register_top(_k)
