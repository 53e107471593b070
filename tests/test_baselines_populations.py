"""How cells are moved, the baselines that are no shift rule, and the order on real cells."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from wound_jax.baselines import fit_baselines
from wound_jax.baselines.cells import MatchedDisplacement, _plan
from wound_jax.baselines.moving import moved
from wound_jax.baselines.training import Training
from wound_jax.data.strata import Stratum
from wound_jax.evaluation.distances import energy_distance

pytestmark = pytest.mark.blas

N_GENES = 12


def sparse_cells(n: int, seed: int, n_genes: int = N_GENES) -> np.ndarray:
    """Counts on a log scale, about half of them zero."""
    return np.log1p(np.random.default_rng(seed).poisson(0.8, size=(n, n_genes)))


def stratum_of(control: np.ndarray, treated: np.ndarray | None = None, **labels) -> Stratum:
    of = {"cell_type": "Fib", "timepoint": None, "perturbation": "Burn"} | labels
    return Stratum(control=control, treated=control if treated is None else treated, **of)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 40), st.floats(0.0, 3.0))
def test_moved_cells_are_not_negative_and_have_the_wanted_mean(seed, n, size) -> None:
    cells = sparse_cells(n, seed)
    shift = size * np.random.default_rng(seed).normal(size=N_GENES)
    result = moved(cells, shift, non_negative=True)
    assert result.dtype == np.float32
    assert result.min() >= 0.0
    wanted = np.maximum(cells.mean(axis=0) + shift, 0.0)
    np.testing.assert_allclose(result.mean(axis=0, dtype=np.float64), wanted, atol=2e-6)


def test_moved_cells_are_the_nearest_ones_with_the_wanted_mean() -> None:
    """Against max(x + c, 0) with c found by bracketing: the projection has that form."""
    cells, shift = sparse_cells(50, 0), np.linspace(-0.45, 0.3, N_GENES)
    result = moved(cells, shift, non_negative=True)
    for gene, wanted in enumerate(cells.mean(axis=0) + shift):
        column = cells[:, gene]
        if wanted <= 0.0:
            assert not result[:, gene].any()
            continue
        c = brentq(
            lambda c, x=column, m=wanted: np.maximum(x + c, 0.0).mean() - m, -5, 5, xtol=1e-12
        )
        np.testing.assert_allclose(result[:, gene], np.maximum(column + c, 0.0), atol=1e-6)


def test_cells_are_moved_by_shifts_of_their_own() -> None:
    cells = sparse_cells(6, 0) + 1.0
    shifts = np.random.default_rng(1).uniform(-1.0, 1.0, size=cells.shape)
    np.testing.assert_allclose(moved(cells, shifts, True), cells + shifts, rtol=1e-6)


def test_nothing_is_cut_in_a_signed_space() -> None:
    cells = sparse_cells(10, 0)
    np.testing.assert_allclose(moved(cells, -1.0 * cells[0], False), cells - cells[0])


def test_pairing_finds_the_partners() -> None:
    """Where each cell has one partner and all others are equally far, that partner takes all."""
    permutation = np.eye(8)[np.random.default_rng(0).permutation(8)]
    np.testing.assert_allclose(_plan(3.0 * (1.0 - permutation)), permutation / 8, atol=1e-6)


def test_pairing_is_entropic_transport_between_uniform_weights() -> None:
    """Against plain Sinkhorn iterations in float64, for unequal numbers of cells."""
    cost = np.square(np.random.default_rng(0).normal(size=(30, 1)) - np.linspace(-1, 1, 50))
    kernel = np.exp(-cost / (0.02 * cost.mean()))
    v = np.ones(50)
    for _ in range(20_000):
        u = 1 / 30 / (kernel @ v)
        v = 1 / 50 / (kernel.T @ u)
    plan = _plan(cost)
    assert np.abs(plan - u[:, None] * kernel * v).sum() < 0.01
    assert np.abs(plan.sum(axis=1) - 1 / 30).sum() < 2e-3
    assert np.abs(plan.sum(axis=0) - 1 / 50).sum() < 2e-3


def test_each_cell_moves_as_the_training_cells_near_it() -> None:
    """Two states in one stratum respond in opposite ways: a single shift would do nothing."""
    rng = np.random.default_rng(0)
    state = np.repeat([10.0, -10.0], 40)[:, None]
    control = state + rng.normal(size=(80, N_GENES))
    response = 3.0 * np.sign(state)
    training = [stratum_of(control, control + response, cell_type="Fib")]
    test = stratum_of(np.where(np.arange(9) < 6, 10.0, -10.0)[:, None] + np.zeros((9, N_GENES)))
    predicted = MatchedDisplacement.fit(training, False).predict(test)
    direction = np.sign(test.control[:, :1])
    np.testing.assert_allclose(predicted - test.control, 3.0 * direction * np.ones(N_GENES), atol=2)
    np.testing.assert_allclose(
        (predicted - test.control).mean(axis=1), 3.0 * direction[:, 0], atol=1
    )


def test_displacements_of_the_own_timepoint_come_first() -> None:
    control = np.random.default_rng(0).normal(size=(50, N_GENES))
    training = [
        stratum_of(control, control + 2.0, timepoint="day10"),
        stratum_of(control, control - 2.0, timepoint="day14"),
    ]
    baseline = MatchedDisplacement.fit(training, False)
    for timepoint, shift in (("day10", 2.0), ("day14", -2.0), ("day19", 0.0)):
        test = stratum_of(control, timepoint=timepoint)
        delta = (baseline.predict(test) - control).mean(axis=0)
        np.testing.assert_allclose(delta, shift, atol=0.2)


def test_covariate_only_ignores_the_control_cells() -> None:
    cells = [sparse_cells(30, seed) for seed in range(4)]
    training = [
        stratum_of(cells[0], cells[1], cell_type="Fib"),
        stratum_of(cells[2], cells[3], cell_type="Mac"),
    ]
    baseline = fit_baselines(training, True, ["covariate_only"])["covariate_only"]
    means = {"Fib": cells[1].mean(axis=0), "Mac": cells[3].mean(axis=0)}
    means["Neu"] = (means["Fib"] + means["Mac"]) / 2
    for cell_type, mean in means.items():
        predicted = baseline.predict(stratum_of(sparse_cells(5, 9), cell_type=cell_type))
        np.testing.assert_allclose(predicted, np.tile(mean, (5, 1)), rtol=1e-6)


def test_scgen_like_counts_cell_types_equally_and_moves_within_the_components() -> None:
    rng = np.random.default_rng(0)
    axis = np.eye(N_GENES)[0]
    control = {t: rng.normal(size=(n, N_GENES)) for t, n in (("Fib", 400), ("Mac", 20))}
    training = [
        stratum_of(control["Fib"], control["Fib"] + 1.0 * axis, cell_type="Fib", timepoint="a"),
        stratum_of(control["Fib"], control["Fib"] + 3.0 * axis, cell_type="Fib", timepoint="b"),
        stratum_of(control["Mac"], control["Mac"] + 6.0 * axis, cell_type="Mac", timepoint="a"),
    ]
    baseline = fit_baselines(training, False, ["scgen_like_linear"])["scgen_like_linear"]
    test = stratum_of(rng.normal(size=(5, N_GENES)), cell_type="Neu")
    delta = baseline.predict(test) - test.control
    # (mean of 1 and 3, then with 6): the components span all genes here.
    np.testing.assert_allclose(delta, np.tile(4.0 * axis, (5, 1)), atol=1e-4)


@pytest.fixture(scope="module")
def interferon_strata(shared) -> dict[str, Stratum]:
    """Control and stimulated cells of six blood cell types, log1p of counts per 10,000.

    At most 250 cells of each, and the 400 genes that vary most, to be quick.
    """
    anndata = pytest.importorskip("anndata")
    data = anndata.read_h5ad(shared / "data" / "kang_ifnb.h5ad")
    data = data[(data.obs.label_source != "predicted").to_numpy()]
    counts = data.X.tocsr().astype(np.float64)
    logged = np.log1p(counts.multiply(1e4 / np.asarray(counts.sum(axis=1))).tocsr())
    square = logged.multiply(logged).mean(axis=0)
    variance = np.asarray(square).ravel() - np.asarray(logged.mean(axis=0)).ravel() ** 2
    expression = logged[:, np.argsort(-variance)[:400]].toarray().astype(np.float32)

    def arm(cell_type: str, condition: str) -> tuple[np.ndarray, np.ndarray]:
        rows = (data.obs.cell_type == cell_type) & (data.obs.condition == condition)
        rows = np.flatnonzero(rows)[:250]
        return expression[rows], data.obs.donor.astype(str).to_numpy()[rows]

    names = ("CD14+ Monocytes", "FCGR3A+ Monocytes", "CD4 T cells", "CD8 T cells", "B cells")
    strata = {}
    for name in (*names, "NK cells"):
        (control, from_control), (treated, from_treated) = arm(name, "ctrl"), arm(name, "stim")
        strata[name] = Stratum(name, None, control, treated, "stim", from_control, from_treated)
    return strata


def test_order_on_real_cells_with_a_type_held_out(interferon_strata) -> None:
    """Interferon-beta in blood: what uses the control cells beats the mean shift."""
    strong = ("ridge_pca", "pls_pca", "kernel_mean_delta", "stacked_linear", "matched_displacement")
    names = ("identity", "covariate_only", "global_mean_delta", *strong)
    correlations: dict[str, list[float]] = {name: [] for name in names}
    distances: dict[str, list[float]] = {name: [] for name in names}
    for held_out in ("CD14+ Monocytes", "CD4 T cells", "B cells"):
        stratum = interferon_strata[held_out]
        training = Training([s for name, s in interferon_strata.items() if name != held_out])
        project = training.components.project
        effect = energy_distance(project(stratum.control), project(stratum.treated))
        for name, baseline in fit_baselines(training, True, names).items():
            predicted = baseline.predict(stratum)
            delta = predicted.mean(axis=0) - stratum.control_mean
            correlations[name].append(np.corrcoef(delta, stratum.mean_delta)[0, 1])
            remaining = energy_distance(project(predicted), project(stratum.treated))
            distances[name].append(remaining / effect)
    correlation = {name: np.mean(of_name) for name, of_name in correlations.items()}
    distance = {name: np.mean(of_name) for name, of_name in distances.items()}
    assert distance["identity"] == pytest.approx(1.0, abs=1e-6)
    assert distance["covariate_only"] > 1.0
    assert correlation["global_mean_delta"] > 0.75
    assert distance["global_mean_delta"] < 0.5
    for name in strong:
        assert correlation[name] > correlation["global_mean_delta"] + 0.04
        assert distance[name] < 0.5 * distance["global_mean_delta"]
