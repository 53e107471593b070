"""Metrics of sets of cells: distances by their definitions, and what a lost spread does to them."""

from dataclasses import replace

import numpy as np
import pytest
from metric_strata import (
    N_GENES,
    context_of,
    distances_float64,
    energy_float64,
    make_stratum,
    score,
    sparse_cells,
)

from wound_jax.data.strata import Stratum
from wound_jax.evaluation.context import ScoreContext
from wound_jax.evaluation.metrics import RealStratum, populations, realism, score_all
from wound_jax.evaluation.metrics.populations import kernel_width, temperature

pytestmark = pytest.mark.blas


@pytest.fixture(scope="module")
def stratum() -> Stratum:
    return make_stratum(1)


@pytest.fixture(scope="module")
def context(stratum: Stratum) -> ScoreContext:
    return context_of(stratum, make_stratum(2, "Mac"), make_stratum(3, "Neu"))


@pytest.fixture(scope="module")
def even() -> Stratum:
    """A stratum whose cells are all compared, whatever is drawn."""
    return make_stratum(5, n=(80, 80))


@pytest.fixture(scope="module")
def predicted(even: Stratum) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.maximum(even.control + 0.3 * rng.normal(size=N_GENES), 0).astype(np.float32)


@pytest.fixture(scope="module")
def scores(even, predicted, context) -> dict[str, float]:
    return score(even, predicted, context)


@pytest.fixture(scope="module")
def projected(even, predicted, context) -> list[np.ndarray]:
    """Control, treated and predicted cells on the components."""
    return [context.project(cells) for cells in (even.control, even.treated, predicted)]


def test_energy_distances_follow_their_definition(scores, projected) -> None:
    c, t, p = projected
    assert scores["e_distance"] == pytest.approx(energy_float64(p, t), rel=1e-9)
    assert scores["e_distance_control"] == pytest.approx(energy_float64(c, t), rel=1e-9)
    ratio = energy_float64(p, t) / energy_float64(c, t)
    assert scores["e_distance_ratio"] == pytest.approx(ratio, rel=1e-9)


def test_mmd_follows_its_definition_with_the_median_of_real_cells(
    even, predicted, context, scores, projected
) -> None:
    c, t, p = projected
    pooled = distances_float64(*[np.concatenate([c, t])] * 2)
    width = np.median(pooled[np.triu_indices(len(pooled), k=1)])
    assert RealStratum(even, context).once(kernel_width) == pytest.approx(width)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-np.square(distances_float64(a, b)) / (2 * width**2))

    n = len(p)
    within = sum((kernel(x, x).sum() - n) / (n * (n - 1)) for x in (p, t))
    expected = within - 2 * kernel(p, t).mean()
    assert scores["mmd2_rbf"] == pytest.approx(expected, rel=1e-6)


def transport_float64(x: np.ndarray, y: np.ndarray, e: float) -> float:
    """OT of equal weights by plain Sinkhorn iterations in the log domain."""
    cost = np.square(distances_float64(x, y)) / 2
    f, g = np.zeros(len(x)), np.zeros(len(y))

    def soft(values: np.ndarray, axis: int) -> np.ndarray:
        top = values.max(axis=axis, keepdims=True)
        return np.log(np.exp(values - top).mean(axis=axis)) + top.squeeze(axis)

    for _ in range(2000):
        f = -e * soft((g - cost) / e, 1)
        g = -e * soft((f[:, None] - cost) / e, 0)
    return float(f.mean() + g.mean())


def test_sinkhorn_divergence_follows_its_definition(
    even, predicted, context, scores, projected
) -> None:
    c, t, p = projected
    e = 0.3 * np.square(distances_float64(c, t)).mean() / 2
    assert RealStratum(even, context).once(temperature) == pytest.approx(e)
    between, *own = (transport_float64(*pair, e) for pair in ((p, t), (p, p), (t, t)))
    assert scores["sinkhorn_divergence"] == pytest.approx(between - sum(own) / 2, rel=1e-3)


def test_a_divergence_that_did_not_converge_is_none(even, predicted, context, monkeypatch) -> None:
    for converged, expected in ((1.0, 2.5), (0.0, np.nan)):
        monkeypatch.setattr(populations, "run_padded", lambda *_, c=converged: [np.array([2.5, c])])
        (found,) = score_all([even], [predicted], context, ["sinkhorn_divergence"])
        np.testing.assert_equal(found["sinkhorn_divergence"], expected)


def test_the_kernel_is_as_wide_as_the_cells_drawn_first_are_apart(context) -> None:
    rng = np.random.default_rng(0)
    control, treated = rng.normal(size=(2, 300, N_GENES)) * rng.gamma(1.0, size=(2, 300, 1))
    real = RealStratum(Stratum("Fib", None, control, treated, "Burn"), context)
    arms = zip((control, treated), real.order, strict=True)
    cells = np.concatenate([context.project(arm[order[:256]]) for arm, order in arms])
    among = distances_float64(cells, cells)[np.triu_indices(512, k=1)]
    assert kernel_width(real) == pytest.approx(np.median(among), rel=1e-6)
    same = Stratum("Fib", None, np.ones((5, N_GENES)), np.ones((5, N_GENES)), "Burn")
    assert kernel_width(RealStratum(same, context)) == 1.0


def test_realism_follows_its_definitions(even, predicted, context, scores, projected) -> None:
    _, t, p = projected
    assert scores["variance_ratio"] == pytest.approx(
        np.trace(np.cov(p.T)) / np.trace(np.cov(t.T)), rel=1e-9
    )
    genes = context.top_genes_of(even)
    upper = np.triu_indices(len(genes), k=1)
    with np.errstate(invalid="ignore"):
        p, t = (np.corrcoef(cells[:, genes].T)[upper] for cells in (predicted, even.treated))
    p = np.nan_to_num(p)  # Genes that the prediction shifts below zero are constant there.
    assert scores["gene_correlation_agreement"] == pytest.approx(np.corrcoef(p, t)[0, 1], rel=1e-9)
    shares = [(cells == 0).mean(axis=0) for cells in (predicted, even.treated)]
    assert scores["zero_share_error"] == pytest.approx(np.abs(shares[0] - shares[1]).mean())
    assert 0 < scores["zero_share_error"] < 1


def test_collapse_is_caught_by_the_spread_and_rewarded_by_the_legacy_metric(
    stratum, context
) -> None:
    rng = np.random.default_rng(11)
    drawn = stratum.treated[rng.choice(stratum.n_treated, stratum.n_control)]
    fair = sparse_cells(rng, stratum.n_control, np.expm1(drawn).mean(axis=0))
    collapsed = np.repeat(stratum.treated.mean(axis=0, keepdims=True), stratum.n_control, axis=0)
    fair_scores, collapsed_scores = (score(stratum, p, context) for p in (fair, collapsed))
    assert collapsed_scores["e_distance_ratio"] > 5 * abs(fair_scores["e_distance_ratio"])
    assert collapsed_scores["e_distance_ratio"] > 0.4
    assert fair_scores["variance_ratio"] == pytest.approx(1.0, abs=0.3)
    assert collapsed_scores["variance_ratio"] == pytest.approx(0.0, abs=1e-9)
    assert collapsed_scores["gene_correlation_agreement"] == 0.0
    assert fair_scores["zero_share_error"] < 0.1 < 0.3 < collapsed_scores["zero_share_error"]
    assert collapsed_scores["legacy_nn_cosine"] < fair_scores["legacy_nn_cosine"]
    # Only the spread is lost: mean-based metrics cannot tell and call it perfect.
    assert collapsed_scores["pearson_delta"] == pytest.approx(1.0, abs=1e-6)
    assert collapsed_scores["type_kept"] == 1.0


def test_more_spread_than_real_is_as_wrong_as_less(even, context) -> None:
    centre = even.treated.mean(axis=0)
    for factor in (0.5, 2.0):
        scaled = centre + factor * (even.treated - centre)
        found = score(even, scaled, context)["variance_ratio"]
        assert found == pytest.approx(factor**2, rel=1e-5)


def test_a_gene_constant_in_the_treated_cells_is_left_out_and_in_the_predicted_ones_not(
    even, predicted, context
) -> None:
    gene = context.top_genes_of(even)[0]
    flat, moved = even.treated.copy(), predicted.copy()
    flat[:, gene] = 2.0
    moved[:, gene] = np.random.default_rng(0).random(len(moved))
    without = replace(even, treated=flat)
    reference = score(without, predicted, context)["gene_correlation_agreement"]
    assert score(without, moved, context)["gene_correlation_agreement"] == reference
    flat_prediction = predicted.copy()
    flat_prediction[:, gene] = 2.0
    agreement = score(even, flat_prediction, context)["gene_correlation_agreement"]
    assert np.isfinite(agreement)
    assert agreement != score(even, predicted, context)["gene_correlation_agreement"]


def test_a_gene_that_varies_by_rounding_correlates_with_none() -> None:
    cells = np.random.default_rng(0).normal(size=(50, 3)) + 1.0
    cells[:, 0] = 1.0 + 1e-8 * cells[:, 1]
    first, second, third = realism._coexpression(cells)
    assert first == second == 0.0
    assert third == pytest.approx(np.corrcoef(cells[:, 1], cells[:, 2])[0, 1])


def test_zeros_mean_nothing_in_a_space_of_negative_values_or_without_zeros(even, context) -> None:
    for offset in (-1.0, 0.5):
        moved = replace(even, control=even.control + offset, treated=even.treated + offset)
        assert np.isnan(score(moved, moved.control, context)["zero_share_error"])


def test_type_kept_tells_which_type_the_cells_look_like(context) -> None:
    fib, mac = make_stratum(1), make_stratum(2, "Mac", n=(90, 90))
    kept = score(fib, fib.control, context)
    assert kept["type_kept"] > 0.9
    assert kept["type_kept_treated"] > 0.9
    assert score(fib, mac.control, context)["type_kept"] < 0.1
    assert np.isnan(score(replace(fib, cell_type="Other"), fib.control, context)["type_kept"])


def test_every_figure_of_real_cells_is_computed_once(
    stratum, context, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = RealStratum(stratum, context)

    def score_again(cells: np.ndarray) -> None:
        score_all([stratum], [cells], context, known={stratum: real})

    score_again(stratum.control + 1.0)
    known = dict(real.memory)
    assert len(known) >= 6
    monkeypatch.setattr("wound_jax.evaluation.metrics.populations.pdist", None)
    score_again(stratum.control * 2.0)
    assert real.memory.keys() == known.keys()
    assert all(real.memory[key] is value for key, value in known.items())
