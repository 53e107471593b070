"""Scoring as a whole, and the metrics of mean profiles, against definitions in float64."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_strata import N_GENES, context_of, distances_float64, make_stratum, score
from sklearn.metrics import r2_score

from wound_jax.data.strata import Stratum
from wound_jax.errors import UserError
from wound_jax.evaluation.context import ScoreContext
from wound_jax.evaluation.metrics import METRICS, Comparison, RealStratum, metric, score_all
from wound_jax.evaluation.metrics.populations import temperature

pytestmark = pytest.mark.blas

# Two types at three timepoints: every metric is defined.
LABELS = [(cell_type, day) for cell_type in ("Fib", "Mac") for day in ("d10", "d14", "d19")]


@pytest.fixture(scope="module")
def strata() -> list[Stratum]:
    return [make_stratum(i, name, timepoint=day) for i, (name, day) in enumerate(LABELS)]


@pytest.fixture(scope="module")
def context() -> ScoreContext:
    return context_of(*(make_stratum(10 + i, name) for i, (name, _) in enumerate(LABELS)))


@pytest.fixture(scope="module")
def noisy(strata) -> list[np.ndarray]:
    """Predictions that are neither good nor hopeless."""
    rng = np.random.default_rng(0)
    shifts = [s.mean_delta + 0.2 * rng.normal(size=N_GENES) for s in strata]
    return [
        np.maximum(s.control + shift, 0).astype(np.float32)
        for s, shift in zip(strata, shifts, strict=True)
    ]


def transport_rounding(cells: np.ndarray, e: float) -> float:
    """How far float32 may leave the Sinkhorn divergence of cells from themselves from its 0.

    OT(X, X) is computed in two ways, and the divergence is the difference. With u = 2^-24, n cells
    x about their mean and C the largest cost, either of them rounds by the sum of

    - costs: the Gram form rounds |x - y|^2 / 2 by at most 16 u (|x|^2 + |y|^2) (losses.distances),
      and since the plan sums to 1, OT moves by no more than the costs do;
    - potentials and exponents: numbers of at most L = C + e log n. Two sums of n terms, weighted
      by 1/n, and 3 u L for the exponents, which the plan weights;
    - the sum of the plan: n^2 terms that sum to 1, times e.

    A sum of m terms rounds by sqrt(m) u of the sum of their sizes as a standard deviation, in any
    order (Higham and Mary 2019, SIAM J. Sci. Comput. 41, A2815), and by 4 times that in practice
    never. Where the iteration stops leaves 1e-8 of it, in float64.
    """
    u, n = 2.0**-24, len(cells)
    centred = cells - cells.mean(axis=0)
    largest = np.square(distances_float64(cells, cells)).max() / 2 + e * np.log(n)
    costs = 32 * u * np.square(centred).sum(axis=1).max()
    sums = 4 * u * (2 * np.sqrt(n) * largest + n * e)
    return 2 * (costs + sums + 3 * u * largest)


def test_the_treated_cells_themselves_have_the_best_value_of_every_metric(strata, context) -> None:
    even = [replace(s, control=s.control[:90], treated=s.treated[:90]) for s in strata]
    scores = score_all(even, [s.treated.copy() for s in even], context)[0]
    # What a classifier or a sample can reach is less than what is perfect; tested elsewhere.
    unsure = {"type_kept", "e_distance", "e_distance_ratio", "mmd2_rbf"}
    real = RealStratum(even[0], context)
    transport = transport_rounding(real.projected[1], real.once(temperature))
    assert transport < 1e-3, "of divergences of .2 to .6 of predictions that are off by a fifth"
    for name, entry in METRICS.items():
        if entry.best_value is not None and name not in unsure:
            bound = transport if name == "sinkhorn_divergence" else 1e-6
            assert scores[name] == pytest.approx(entry.best_value, abs=bound), name
    for name in unsure - {"type_kept"}:
        assert -0.3 < scores[name] <= 0, "unbiased, so a little below 0 for coinciding cells"


def test_the_identity_scores_what_the_definitions_say(strata, context) -> None:
    zero = ("pearson_delta", "pearson_delta_top100", "cosine_delta", "sign_share")
    zero += ("type_retrieval", "de_direction_match", "de_sig_genes_recall", "pearson_edistance")
    zero += ("overlap_at_N", "precision_at_N", "de_spearman_lfc_sig")
    for scores in score_all(strata, [s.control for s in strata], context):
        for name in zero:
            assert scores[name] == 0.0, name
        assert scores["delta_is_zero"] == 1.0
        assert scores["e_distance_ratio"] == pytest.approx(1.0, abs=1e-12)
        assert scores["e_distance"] == pytest.approx(scores["e_distance_control"], rel=1e-12)
        assert scores["e_distance"] > 0
        assert scores["legacy_nn_cosine"] == scores["legacy_nn_cosine_control"]
        assert scores["roc_auc"] == 0.5
        assert scores["pr_auc"] == pytest.approx(scores["de_nsig_counts_real"] / N_GENES)
        assert -0.5 < scores["r2_delta"] <= 0.0
        # At the same distance of all three: chance.
        assert scores["discrimination_score_cosine"] == pytest.approx(2 / 3)


def test_metrics_of_raw_means_are_passed_by_the_identity_and_ranked_by_nobody(shared) -> None:
    """The trap on measured-like cells: the control cells score .96."""
    anndata = pytest.importorskip("anndata")
    real = anndata.read_h5ad(shared / "fixtures" / "cell_eval" / "real.h5ad")
    control, treated = (
        real[real.obs.condition == label].X.toarray() for label in ("Sham", "Burn_day10")
    )
    stratum = Stratum("all", None, control, treated, "Burn_day10")
    scores = score(stratum, control, context_of(stratum))
    assert scores["pearson_mean"] == pytest.approx(0.9617476171691568, abs=1e-6)
    assert scores["r2_mean"] > 0.9
    assert scores["pearson_delta"] == 0.0
    for name in ("pearson_mean", "r2_mean", "legacy_nn_cosine"):
        assert METRICS.get(name).best_value is None
        assert METRICS.get(name).trap


def test_a_reversed_response_fails_where_signs_count(strata, context) -> None:
    reversed_ = [(s.control - s.mean_delta).astype(np.float32) for s in strata]
    for scores in score_all(strata, reversed_, context):
        assert scores["pearson_delta"] == pytest.approx(-1.0, abs=1e-6)
        assert scores["cosine_delta"] == pytest.approx(-1.0, abs=1e-6)
        assert scores["sign_share"] == scores["type_retrieval"] == 0.0
        assert scores["de_direction_match"] < 0.2
        assert scores["r2_delta"] < -2
        assert scores["e_distance_ratio"] > 1.5
        # Only the direction is wrong: the spread and the zeros' ranks are not what fails.
        assert scores["variance_ratio"] == pytest.approx(1.0, abs=0.5)


def test_a_pure_shift_is_perfect_and_half_of_it_is_half_way() -> None:
    rng = np.random.default_rng(0)
    shift = np.where(np.arange(N_GENES) < 10, 1.5, 0.0)
    control, other = rng.normal(size=(2, 400, N_GENES)) + 3.0
    stratum = Stratum("Fib", None, control, other + shift, "Burn")
    context = context_of(stratum)
    exact = score(Stratum("Fib", None, control, control + shift, "Burn"), control + shift, context)
    for name in ("pearson_delta", "pearson_delta_top100", "cosine_delta", "r2_delta"):
        assert exact[name] == pytest.approx(1.0, abs=1e-9)
    assert exact["mse"] == pytest.approx(0.0, abs=1e-12)
    assert exact["mae"] == pytest.approx(0.0, abs=1e-9)
    independent = score(stratum, control + shift, context)
    assert abs(independent["e_distance_ratio"]) < 0.01
    half = score(stratum, control + 0.5 * shift, context)
    assert 0.1 < half["e_distance_ratio"] < 0.5
    assert half["pearson_delta"] == pytest.approx(independent["pearson_delta"], abs=1e-9)
    assert half["r2_delta"] < independent["r2_delta"] - 0.1


def test_profile_metrics_match_their_definitions(strata, noisy, context) -> None:
    for stratum, predicted, scores in zip(
        strata, noisy, score_all(strata, noisy, context), strict=True
    ):
        arms = (predicted, stratum.treated, stratum.control)
        p, t, c = (x.astype(np.float64).mean(0) for x in arms)
        g = context.mean_deltas["Burn"]
        top = context.top_genes_of(stratum)
        expected = {
            "mse": ((p - t) ** 2).mean(),
            "mae": np.abs(p - t).mean(),
            "pearson_delta": np.corrcoef(p - c, t - c)[0, 1],
            "pearson_delta_top100": np.corrcoef((p - c)[top], (t - c)[top])[0, 1],
            "pearson_delta_residual": np.corrcoef(p - c - g, t - c - g)[0, 1],
            "cosine_delta": (p - c) @ (t - c) / np.linalg.norm(p - c) / np.linalg.norm(t - c),
            "r2_delta": r2_score(t - c, p - c),
            "r2_mean": r2_score(t, p),
            "pearson_mean": np.corrcoef(p, t)[0, 1],
        }
        for name, value in expected.items():
            assert scores[name] == pytest.approx(value, rel=1e-9), name


def test_the_residual_correlation_sees_only_what_is_specific(strata, context) -> None:
    """A prediction of the mean training shift scores 0, however well it correlates as a whole."""
    shift = context.mean_deltas["Burn"]
    stratum = replace(strata[0], control=strata[0].control + 10.0, treated=strata[0].treated + 10.0)
    scores = score(stratum, stratum.control + shift, context)
    assert scores["pearson_delta"] > 0.9
    assert scores["pearson_delta_residual"] == 0.0


def test_a_stratum_scores_the_same_alone_and_again(strata, noisy, context) -> None:
    """Neither what stands beside it in the call nor what was scored before changes a value."""
    together = score_all(strata, noisy, context)
    np.testing.assert_equal(score_all(strata, noisy, context), together)
    alone = score_all(strata[:3], noisy[:3], replace(context))
    for ours, theirs in zip(alone, together, strict=False):
        ours, theirs = ({**scores, "type_retrieval": 0.0} for scores in (ours, theirs))
        assert ours == pytest.approx(theirs, rel=1e-9, nan_ok=True)


def test_undefined_values(strata, context) -> None:
    stratum = strata[0]
    nothing = replace(stratum, treated=stratum.control.copy())
    scores = score(nothing, stratum.control + 1.0, context)
    for name in ("e_distance_ratio", "pearson_delta", "cosine_delta", "sign_share", "r2_delta"):
        assert np.isnan(scores[name]), name
    for name in ("de_direction_match", "de_sig_genes_recall", "overlap_at_N", "precision_at_50"):
        assert np.isnan(scores[name]), name
    single = replace(stratum, treated=stratum.treated[:1])
    scores = score(single, stratum.control + 1.0, context)
    for name in ("e_distance", "variance_ratio", "gene_correlation_agreement"):
        assert np.isnan(scores[name]), name
    assert scores["delta_is_zero"] == 0.0
    assert score_all([], [], context) == []


def test_errors_name_the_fault(strata, context) -> None:
    stratum = strata[0]
    with pytest.raises(UserError, match=r"one row for each control cell"):
        score(stratum, stratum.control[:-1], context)
    with pytest.raises(UserError, match="1 predictions for 2 strata"):
        score_all(strata[:2], [stratum.control], context)
    with pytest.raises(UserError, match="NaN or infinity"):
        score(stratum, np.full_like(stratum.control, np.nan), context)
    with pytest.raises(UserError, match="no treated cells"):
        score(replace(stratum, treated=stratum.treated[:0]), stratum.control, context)
    with pytest.raises(UserError, match="same genes"):
        replace(stratum, treated=stratum.treated[:, 1:])
    with pytest.raises(UserError, match="control_replicates"):
        replace(stratum, control_replicates=np.array(["m1"]))
    with pytest.raises(UserError, match="Did you mean 'pearson_delta'"):
        METRICS.get("pearson_dleta")
    with pytest.raises(ValueError, match="'mse' is registered already"):
        metric("mse", best_value=0.0)(lambda comparison: 0.0)


def test_every_metric_says_what_it_is_and_which_way_is_better() -> None:
    for name, entry in METRICS.items():
        assert entry.name == name
        assert entry.summary.endswith((".", ";")) or ":" in entry.summary, entry.summary
        assert len(entry.summary) <= 100
        assert (entry.best_value is None) == (entry.direction is None) == (entry.arrow == "")
        assert not entry.trap or entry.best_value is None, "what misleads decides nothing"
    arrows = {"pearson_delta": "↑", "e_distance_ratio": "↓", "variance_ratio": "→1"}
    assert {name: METRICS.get(name).arrow for name in arrows} == arrows


def test_goodness_grows_with_quality() -> None:
    better = {"pearson_delta": (0.9, 0.1), "e_distance_ratio": (0.2, 0.7), "mse": (0.0, 1.0)}
    better["variance_ratio"] = (1.2, 0.5)
    for name, (good, bad) in better.items():
        assert METRICS.get(name).goodness(good) > METRICS.get(name).goodness(bad)
    assert METRICS.get("variance_ratio").goodness(0.9) == pytest.approx(
        METRICS.get("variance_ratio").goodness(1.1)
    )
    assert np.isnan(METRICS.get("legacy_nn_cosine").goodness(0.1))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=5, deadline=None)
def test_order_of_cells_and_genes_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stratum = make_stratum(1, n=(70, 70))
    context = context_of(stratum, make_stratum(2, "Mac"))
    predicted = stratum.control + 0.3 * rng.random(N_GENES).astype(np.float32)
    cells, targets, genes = rng.permutation(70), rng.permutation(70), rng.permutation(N_GENES)
    place = np.argsort(genes)
    shuffled = replace(
        stratum,
        control=stratum.control[cells][:, genes],
        treated=stratum.treated[targets][:, genes],
    )
    renamed = replace(
        context,
        top_genes={key: place[top] for key, top in context.top_genes.items()},
        mean_deltas={key: shift[genes] for key, shift in context.mean_deltas.items()},
        pca_mean=context.pca_mean[genes],
        pca_components=context.pca_components[:, genes],
    )
    before = score(stratum, predicted, context)
    after = score(shuffled, predicted[cells][:, genes], renamed)
    assert after == pytest.approx(before, rel=1e-5, abs=1e-6, nan_ok=True)


def test_samples_are_equally_many_paired_and_reproducible(strata, context) -> None:
    small = replace(context, max_cells=37, max_gene_cells=20)
    stratum = strata[0]
    real = RealStratum(stratum, small)
    one, two = (Comparison(real, cells) for cells in (stratum.control + 1, 2 * stratum.control))
    control, treated, predicted = one.samples
    assert len(control) == len(treated) == len(predicted) == 37
    np.testing.assert_array_equal(predicted, control + 1.0)
    np.testing.assert_array_equal(treated, two.samples[1])
    np.testing.assert_array_equal(two.samples[2], two.samples[0] * 2.0)
    order = [RealStratum(stratum, replace(small, seed=seed)).order[0] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(order[0], order[1])
    assert not np.array_equal(order[0], order[2])
    assert len(set(order[0])) == 37
    few = one.gene_samples
    assert [len(cells) for cells in few] == [20, 20, 20]
    of_control, of_treated = map(np.sort, one.real.first_drawn(20))
    np.testing.assert_array_equal(few[0], control[of_control])
    np.testing.assert_array_equal(few[1], treated[of_treated])
