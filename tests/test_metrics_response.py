"""Differential expression: the test against scipy, the agreement by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_strata import context_of, make_stratum, score, sparse_cells
from scipy.stats import mannwhitneyu, spearmanr

from wound_jax.evaluation.metrics import differential_expression as response
from wound_jax.evaluation.metrics.rank_sum import (
    DifferentialExpression,
    differential_expression,
    rank_sum_test,
)

pytestmark = [pytest.mark.blas, pytest.mark.quick]


def scipy_test(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    arms = (x.astype(np.float64), y.astype(np.float64))
    found = np.asarray(mannwhitneyu(*arms, axis=0, method="asymptotic").pvalue)
    return np.where(np.isnan(found), 1.0, found)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 30), (57, 40), (300, 300)])
def test_rank_sums_agree_with_scipy_with_and_without_ties(n: int, m: int) -> None:
    rng = np.random.default_rng(n)
    level = rng.gamma(0.5, 1.0, size=300)
    x, y = sparse_cells(rng, n, 1.3 * level), sparse_cells(rng, m, level)
    x[:, 0], y[:, 0] = 0.0, 0.0
    x[:, 1], y[:, 1] = 0.0, -0.0
    shifted = (x + 0.1 * rng.normal(size=300)).astype(np.float32)
    continuous = rng.normal(size=(n, 300)).astype(np.float32)
    for cells in (x, shifted, np.maximum(shifted, 0), continuous):
        np.testing.assert_allclose(rank_sum_test(cells, y), scipy_test(cells, y), rtol=1e-10)
    assert rank_sum_test(x, y)[:2].tolist() == [1.0, 1.0]


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_rank_sums_agree_with_scipy_on_few_distinct_values(n, m, values, seed) -> None:
    rng = np.random.default_rng(seed)
    x, y = (rng.integers(-values, values, size=(k, 5)).astype(np.float32) for k in (n, m))
    found = rank_sum_test(x, y)
    np.testing.assert_allclose(found, scipy_test(x, y), rtol=1e-10)
    np.testing.assert_allclose(found, rank_sum_test(y, x), rtol=1e-10)
    # A monotone map keeps all ranks.
    np.testing.assert_allclose(rank_sum_test(np.exp(x), np.exp(y)), found, rtol=1e-10)


def test_effects_are_fold_changes_of_geometric_means_or_differences() -> None:
    treated = np.log1p(np.array([[3.0, 0.0, 0.0, 1.0], [3.0, 0.0, 0.0, 1.0]]))
    control = np.log1p(np.array([[1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 1.0, 0.0]]))
    found = differential_expression(treated, control, non_negative=True)
    np.testing.assert_allclose(found.effect, [np.log2(3.0), 0.0, -np.inf, np.inf])
    below = differential_expression(treated - 5.0, control, non_negative=True)
    assert below.effect[0] == -np.inf, "a negative mean counts as 0"
    signed = differential_expression(treated - 5.0, control, non_negative=False)
    np.testing.assert_allclose(signed.effect, (treated - 5.0 - control)[0])


def result(effect: list[float], significant: str) -> DifferentialExpression:
    """A response with the genes marked x significant."""
    fdr = np.array([0.01 if mark == "x" else 0.5 for mark in significant])
    return DifferentialExpression(np.array(effect), fdr)


TRUE = result([3.0, -2.0, 1.0, 0.5, 0.2, -0.1], "xxxx..")
# Gene 0 right, gene 1 of the wrong sign, gene 2 not found, gene 4 found in error.
PREDICTED = result([1.0, 2.0, 0.2, 0.0, 4.0, -0.3], "xx..x.")


def test_agreement_of_two_responses_by_hand() -> None:
    assert TRUE.ranked.tolist() == [0, 1, 2, 3]
    assert PREDICTED.ranked.tolist() == [4, 1, 0]
    assert response.direction_match(TRUE, PREDICTED) == 2 / 4
    assert response.sig_genes_recall(TRUE, PREDICTED) == 2 / 4
    lfc, _ = np.asarray(spearmanr(TRUE.effect[:4], PREDICTED.effect[:4]))
    assert response.spearman_lfc(TRUE, PREDICTED) == pytest.approx(lfc)
    assert response.overlap(TRUE, PREDICTED, None) == 2 / 4
    assert response.overlap(TRUE, PREDICTED, 2) == 1 / 2
    assert response.overlap(TRUE, PREDICTED, 100) == 2 / 4
    assert response.precision(TRUE, PREDICTED, None) == 2 / 3
    assert response.precision(TRUE, PREDICTED, 1) == 0.0
    # Pairs of a responding and another gene in the right order: 2 * 1 of 8, ties 1/2.
    assert response.roc_auc(TRUE, PREDICTED) == pytest.approx((2 * (1 + 0.5) + 2 * 0.5) / 8)
    assert response.pr_auc(TRUE, PREDICTED) == pytest.approx(0.5 * 2 / 3 + 0.5 * 4 / 6)
    assert response.nsig_real(TRUE, PREDICTED) == 4
    assert response.nsig_pred(TRUE, PREDICTED) == 3


def test_a_gene_at_the_threshold_is_not_significant() -> None:
    found = DifferentialExpression(np.ones(3), np.array([0.05, 0.0499, 0.0501]))
    assert found.significant.tolist() == [False, True, False]


def test_where_nothing_responds() -> None:
    quiet = result([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "......")
    for function in (response.direction_match, response.sig_genes_recall, response.roc_auc):
        assert np.isnan(function(quiet, PREDICTED))
    for function in (response.overlap, response.precision):
        assert np.isnan(function(quiet, PREDICTED, 50))
        assert function(TRUE, quiet, None) == 0.0
    assert np.isnan(response.spearman_lfc(result([1.0, 2.0], "x."), result([1.0, 2.0], "xx")))
    assert response.spearman_lfc(TRUE, result([0.0] * 6, "......")) == 0.0


def test_adding_a_thousandth_to_cells_full_of_zeros_makes_genes_significant() -> None:
    """The trap that the module names, so that nobody takes these figures for more."""
    stratum = make_stratum(3, n=(150, 150))
    shifted = (stratum.control + 1e-3).astype(np.float32)
    scores = score(stratum, shifted, context_of(stratum))
    assert scores["de_nsig_counts_pred"] > 2 * scores["de_nsig_counts_real"]
    assert scores["de_sig_genes_recall"] > 0.5
    assert scores["precision_at_N"] < 0.5


def test_the_more_a_prediction_shrinks_the_fewer_genes_it_finds() -> None:
    stratum = make_stratum(4, n=(150, 150))
    context = context_of(stratum)
    rng = np.random.default_rng(0)
    found = []
    for share in (1.0, 0.5, 0.0):
        responding = rng.random(stratum.n_control) < share
        mixed = np.where(responding[:, None], stratum.treated, stratum.control)
        found.append(score(stratum, mixed, context)["de_sig_genes_recall"])
    assert found[0] == 1.0 > found[1] > found[2] == 0.0
