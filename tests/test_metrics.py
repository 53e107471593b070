"""Metrics against definitions written out in float64, closed forms, and cell-eval's own output."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from wound_jax.errors import UserError
from wound_jax.evaluation.context import ScoreContext, fit_context
from wound_jax.evaluation.distances import energy_distance, nearest_cosine_distance
from wound_jax.evaluation.metrics import METRICS, Comparison, get_metric, score
from wound_jax.evaluation.strata import Stratum

N_GENES = 60


def sparse_cells(rng: np.random.Generator, n: int, level: np.ndarray) -> np.ndarray:
    """Cells like log-normalised counts: many zeros, mean rising with `level`."""
    counts = rng.poisson(np.clip(level, 0.0, None), size=(n, len(level)))
    return np.log1p(counts).astype(np.float32)


def make_stratum(seed: int, name: str = "Fib", n: tuple[int, int] = (90, 120)) -> Stratum:
    """A type with its own profile in which the first 12 genes respond."""
    rng = np.random.default_rng(seed)
    level = rng.gamma(0.6, 1.0, size=N_GENES)
    response = np.zeros(N_GENES)
    response[:12] = rng.uniform(1.0, 4.0, size=12)
    control = sparse_cells(rng, n[0], level)
    return Stratum(name, "day10", control, sparse_cells(rng, n[1], level + response), "Burn")


def context_of(*training: Stratum, n_pcs: int = 20, n_top: int = 15) -> ScoreContext:
    cells = np.concatenate([arm for s in training for arm in (s.control, s.treated)])
    return fit_context(training, cells, n_pcs=n_pcs, n_top_genes=n_top, seed=0)


@pytest.fixture(scope="module")
def stratum() -> Stratum:
    return make_stratum(1)


@pytest.fixture(scope="module")
def context(stratum: Stratum) -> ScoreContext:
    return context_of(stratum, make_stratum(2, "Mac"), make_stratum(3, "Neu"))


def energy_float64(x: np.ndarray, y: np.ndarray) -> float:
    def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.linalg.norm(a[:, None].astype(np.float64) - b[None].astype(np.float64), axis=-1)

    n, m = len(x), len(y)
    within = distances(x, x).sum() / (n * (n - 1)) + distances(y, y).sum() / (m * (m - 1))
    return float(2 * distances(x, y).mean() - within)


@pytest.mark.parametrize(("n", "m"), [(2, 3), (63, 64), (65, 130), (257, 31)])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_energy_distance_agrees_with_float64(n: int, m: int, offset: float) -> None:
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, 50)) + offset
    y = rng.normal(size=(m, 50)) + offset + 0.5
    assert energy_distance(x, y) == pytest.approx(energy_float64(x, y), rel=1e-5)


def test_energy_distance_of_collapsed_cells_agrees_with_float64() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=(200, 50)) + 3.0
    x = np.repeat(y.mean(axis=0, keepdims=True), 150, axis=0) + 1e-4 * rng.normal(size=(150, 50))
    assert energy_distance(x, y) == pytest.approx(energy_float64(x, y), rel=1e-5)


def test_energy_distance_closed_form() -> None:
    # 2 * mean(2, 4, 1, 3) - 1 - 2
    assert energy_distance(np.array([[0.0], [1.0]]), np.array([[2.0], [4.0]])) == pytest.approx(2.0)
    assert np.isnan(energy_distance(np.zeros((1, 3)), np.zeros((5, 3))))


def test_energy_distance_is_unbiased() -> None:
    rng = np.random.default_rng(0)
    values = [
        energy_distance(rng.normal(size=(20, 5)), rng.normal(size=(30, 5))) for _ in range(400)
    ]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    # Keeping each cell's pair with itself would add E|x - x'| (1/20 + 1/30), about 3.1 * 0.083.
    assert error < 0.01


@pytest.mark.parametrize(("n", "m"), [(5, 70), (64, 64), (100, 33)])
def test_nearest_cosine_agrees_with_float64(n: int, m: int) -> None:
    rng = np.random.default_rng(m)
    x, y = rng.random((n, 40)), rng.random((m, 40))
    x[0] = 0.0
    y[1] = x[1] * 2.5
    norms = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(y, axis=1)[None]
    cosine = np.divide(x @ y.T, norms, out=np.zeros((n, m)), where=norms > 0)
    expected = (1 - cosine).min(axis=1).mean()
    assert nearest_cosine_distance(x, y) == pytest.approx(expected, rel=1e-5)


def test_identity_scores_zero_and_one(stratum: Stratum, context: ScoreContext) -> None:
    scores = score(stratum, stratum.control.copy(), context)
    assert scores["pearson_delta"] == 0.0
    assert scores["pearson_delta_top100"] == 0.0
    assert scores["delta_is_zero"] == 1.0
    assert scores["e_distance_ratio"] == 1.0
    assert scores["e_distance"] == scores["e_distance_control"] > 0
    assert scores["legacy_nn_cosine"] == scores["legacy_nn_cosine_control"]


def test_a_pure_shift_is_perfect() -> None:
    rng = np.random.default_rng(0)
    shift = np.where(np.arange(N_GENES) < 10, 1.5, 0.0)
    control, other = rng.normal(size=(2, 400, N_GENES)) + 3.0
    stratum = Stratum("Fib", None, control, other + shift, "Burn")
    context = context_of(stratum)
    exact = Stratum("Fib", None, control, control + shift, "Burn")
    scores = score(exact, control + shift, context)
    assert scores["pearson_delta"] == pytest.approx(1.0, abs=1e-9)
    assert scores["pearson_delta_top100"] == pytest.approx(1.0, abs=1e-9)
    assert scores["mse"] == pytest.approx(0.0, abs=1e-12)
    assert scores["mae"] == pytest.approx(0.0, abs=1e-9)
    assert scores["delta_is_zero"] == 0.0
    independent = score(stratum, control + shift, context)
    assert abs(independent["e_distance_ratio"]) < 0.01
    half = score(stratum, control + 0.5 * shift, context)
    assert 0.1 < half["e_distance_ratio"] < 0.5
    assert half["pearson_delta"] == pytest.approx(independent["pearson_delta"], abs=1e-9)


def test_mean_metrics_match_their_definitions(stratum: Stratum, context: ScoreContext) -> None:
    rng = np.random.default_rng(0)
    predicted = (stratum.control + rng.random(stratum.control.shape)).astype(np.float32)
    p, t, c = (x.astype(np.float64).mean(0) for x in (predicted, stratum.treated, stratum.control))
    scores = score(stratum, predicted, context)
    assert scores["mse"] == pytest.approx(((p - t) ** 2).mean(), rel=1e-9)
    assert scores["mae"] == pytest.approx(np.abs(p - t).mean(), rel=1e-9)
    assert scores["pearson_delta"] == pytest.approx(np.corrcoef(p - c, t - c)[0, 1], rel=1e-9)
    top = context.top_genes_of(stratum)
    assert len(top) == 15
    expected = np.corrcoef((p - c)[top], (t - c)[top])[0, 1]
    assert scores["pearson_delta_top100"] == pytest.approx(expected, rel=1e-9)


def test_the_ratio_follows_its_definition_on_equal_numbers(context: ScoreContext) -> None:
    stratum = make_stratum(5, n=(80, 80))
    predicted = stratum.control + 0.1
    c, t, p = (context.project(x) for x in (stratum.control, stratum.treated, predicted))
    expected = energy_float64(p, t) / energy_float64(c, t)
    assert score(stratum, predicted, context)["e_distance_ratio"] == pytest.approx(
        expected, rel=1e-5
    )


def test_samples_are_equally_many_paired_and_reproducible(
    stratum: Stratum, context: ScoreContext
) -> None:
    small = replace(context, max_cells=37)
    control, treated, predicted = Comparison(stratum, stratum.control + 1.0, small).samples
    again = Comparison(stratum, stratum.control * 2.0, small).samples
    assert len(control) == len(treated) == len(predicted) == 37
    np.testing.assert_array_equal(predicted, control + 1.0)
    np.testing.assert_array_equal(treated, again[1])
    np.testing.assert_array_equal(again[2], again[0] * 2.0)


def test_order_of_cells_and_genes_does_not_matter() -> None:
    rng = np.random.default_rng(7)
    stratum = make_stratum(1, n=(70, 70))
    context = context_of(stratum, make_stratum(2, "Mac"))
    predicted = stratum.control + 0.3 * rng.random(N_GENES).astype(np.float32)
    cells, targets = rng.permutation(70), rng.permutation(70)
    genes = rng.permutation(N_GENES)
    place = np.argsort(genes)
    shuffled = replace(
        stratum,
        control=stratum.control[cells][:, genes],
        treated=stratum.treated[targets][:, genes],
    )
    renamed = replace(
        context,
        top_genes={key: place[top] for key, top in context.top_genes.items()},
        pca_mean=context.pca_mean[genes],
        pca_components=context.pca_components[:, genes],
    )
    before = score(stratum, predicted, context)
    assert score(shuffled, predicted[cells][:, genes], renamed) == pytest.approx(before, rel=1e-5)


def test_collapse_is_punished_by_the_ratio_and_rewarded_by_the_legacy_metric(
    stratum: Stratum, context: ScoreContext
) -> None:
    rng = np.random.default_rng(11)
    drawn = stratum.treated[rng.choice(stratum.n_treated, stratum.n_control)]
    fair = sparse_cells(rng, stratum.n_control, np.expm1(drawn).mean(axis=0))
    collapsed = np.repeat(stratum.treated.mean(axis=0, keepdims=True), stratum.n_control, axis=0)
    fair_scores, collapsed_scores = (score(stratum, p, context) for p in (fair, collapsed))
    assert collapsed_scores["e_distance_ratio"] > 5 * abs(fair_scores["e_distance_ratio"])
    assert collapsed_scores["e_distance_ratio"] > 0.4
    assert collapsed_scores["legacy_nn_cosine"] < fair_scores["legacy_nn_cosine"]
    # Only the spread is lost: mean-based metrics cannot tell and call it perfect.
    assert collapsed_scores["pearson_delta"] == pytest.approx(1.0, abs=1e-6)


def test_undefined_values(stratum: Stratum, context: ScoreContext) -> None:
    nothing = replace(stratum, treated=stratum.control.copy())
    scores = score(nothing, stratum.control + 1.0, context)
    assert np.isnan(scores["e_distance_ratio"])
    assert np.isnan(scores["pearson_delta"])
    assert score(stratum, stratum.control + 1.0, context)["delta_is_zero"] == 0.0


def test_errors_name_the_fault(stratum: Stratum, context: ScoreContext) -> None:
    with pytest.raises(UserError, match=r"one row for each control cell"):
        score(stratum, stratum.control[:-1], context)
    with pytest.raises(UserError, match="NaN or infinity"):
        score(stratum, np.full_like(stratum.control, np.nan), context)
    with pytest.raises(UserError, match="no treated cells"):
        score(replace(stratum, treated=stratum.treated[:0]), stratum.control, context)
    with pytest.raises(UserError, match="same genes"):
        replace(stratum, treated=stratum.treated[:, 1:])
    with pytest.raises(UserError, match="control_animals"):
        replace(stratum, control_animals=np.array(["m1"]))
    with pytest.raises(UserError, match="Did you mean 'pearson_delta'"):
        get_metric("pearson_dleta")


def test_every_metric_says_what_it_is() -> None:
    for entry in METRICS.values():
        assert entry.compute.__doc__
        assert entry.best_value in (0.0, 1.0, None)
    assert METRICS["pearson_delta"].arrow == "↑"
    assert METRICS["e_distance_ratio"].arrow == "↓"
    # The metric that improves under collapse must never decide a comparison.
    assert METRICS["legacy_nn_cosine"].best_value is None


@pytest.mark.parametrize("cell_type", [None, "Fib", "Mac"])
def test_agreement_with_cell_eval(shared, cell_type: str | None) -> None:
    """pearson_delta, mse, mae of cell-eval 0.8.2 on its own files, whole and per type.

    Its pearson_edistance correlates distances over perturbations and has no counterpart here.
    """
    anndata = pytest.importorskip("anndata")
    folder = shared / "fixtures" / "cell_eval"
    real, predicted = (anndata.read_h5ad(folder / f"{name}.h5ad") for name in ("real", "pred"))
    name = "celleval/results" if cell_type is None else f"bycelltype/{cell_type}_results"
    with open(folder / f"{name}.csv", newline="") as file:
        reference = {row["perturbation"]: row for row in csv.DictReader(file)}
    assert len(reference) == 3
    kept = np.ones(real.n_obs, bool) if cell_type is None else real.obs.cell_type == cell_type
    real, predicted = real[kept], predicted[kept]

    def cells(data, label: str) -> np.ndarray:
        return data[data.obs.condition == label].X.toarray()

    strata = [
        Stratum(cell_type or "all", None, cells(real, "Sham"), cells(real, label), label)
        for label in reference
    ]
    context = context_of(*strata)
    for stratum in strata:
        scores = score(stratum, cells(predicted, stratum.perturbation), context)
        for name in ("pearson_delta", "mse", "mae"):
            expected = float(reference[stratum.perturbation][name])
            assert scores[name] == pytest.approx(expected, rel=1e-5), name
