from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from wound_jax.data.settings import SyntheticSettings
from wound_jax.data.source import layer_names
from wound_jax.data.synthetic import SyntheticWound, measure, simulate
from wound_jax.data.synthetic.cells import draw_cells
from wound_jax.data.synthetic.markers import MARKERS, TYPES
from wound_jax.data.synthetic.measure import Expected, draw_tissue

pytestmark = [pytest.mark.blas, pytest.mark.quick]

DAYS = ("day10", "day14", "day19")
TYPE = "cell_types_simple_short"
# Without differences between mice, cells of a group are independent draws of one population.
CONFIG = SyntheticSettings(n_cells=6000, n_genes=800, embedding_dim=8, mouse_sd=0.0, seed=3)


@pytest.fixture(scope="module")
def wound() -> SyntheticWound:
    return simulate(CONFIG)


def of(adata: ad.AnnData, kind: str, day: str, condition: str = "Burn") -> np.ndarray:
    obs = adata.obs
    assert isinstance(obs, pd.DataFrame)
    chosen = (obs[TYPE] == kind) & (obs["timepoint"] == day) & (obs["condition"] == condition)
    return chosen.to_numpy()


def dense(matrix) -> np.ndarray:
    return matrix if isinstance(matrix, np.ndarray) else matrix.toarray()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def welch(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Welch's statistic of two groups of cells, for genes seen in both."""
    seen = a.any(axis=0) & b.any(axis=0)
    a, b = a[:, seen], b[:, seen]
    error = a.var(axis=0, ddof=1) / len(a) + b.var(axis=0, ddof=1) / len(b)
    return (a.mean(axis=0) - b.mean(axis=0)) / np.sqrt(error)


def test_truth_is_about_exactly_the_control_cells(wound):
    adata, truth = wound.adata, wound.truth.adata
    control = adata[adata.obs["condition"] == "Sham"]
    assert list(control.obs_names) == list(truth.obs_names)
    for column in (TYPE, "timepoint", "mouse_id"):
        assert list(control.obs[column]) == list(truth.obs[column])
    assert set(truth.obs["condition"]) == {"Burn"}
    assert set(truth.obs["observed_condition"]) == {"Sham"}
    assert wound.truth.log_delta.shape == (11, 3, 800)
    assert np.array_equal(truth.uns["burn_log_delta"]["values"], wound.truth.log_delta)


def test_nothing_of_the_truth_is_in_the_measured_cells(wound):
    adata = wound.adata
    assert set(layer_names(adata)) == {"counts", "spliced", "unspliced", "velocity"}
    assert set(adata.obsm) == {"X_state_baseline"}
    assert set(adata.uns) == {"wound_jax_synthetic"}
    assert list(adata.var) == ["velocity_genes"]


def test_control_mean_is_the_mean_of_the_measured_controls(wound):
    """Noise lowers the mean of log1p, so the comparison is on counts per 10,000."""
    adata, truth = wound.adata, wound.truth.adata
    control = (adata.obs["condition"] == "Sham").to_numpy()
    difference = np.expm1(dense(adata.X)[control]) - np.expm1(truth.layers["control_mean"])
    error = difference.std(axis=0, ddof=1) / np.sqrt(len(difference))
    assert np.mean((difference.mean(axis=0) / error) ** 2) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("kind", ["Ker", "Fib", "Neu"])
def test_counterfactual_cells_are_like_burnt_cells(wound, kind):
    """Both are samples of one population, so Welch's statistic is standard normal over genes."""
    adata, truth = wound.adata, wound.truth.adata
    burnt = np.expm1(dense(adata.X)[of(adata, kind, "day10")])
    control = np.expm1(dense(adata.X)[of(adata, kind, "day10", "Sham")])
    told = np.expm1(dense(truth.X)[of(truth, kind, "day10")])
    assert np.mean(welch(burnt, told) ** 2) < 1.4
    assert np.mean(welch(burnt, control) ** 2) > 3.0


@pytest.mark.parametrize("kind", ["Ker", "Fib"])
def test_counterfactual_effect_is_the_observed_difference(wound, kind):
    adata, truth = wound.adata, wound.truth.adata
    expression = dense(adata.X)
    control = expression[of(adata, kind, "day10", "Sham")].mean(axis=0)
    observed = expression[of(adata, kind, "day10")].mean(axis=0) - control
    told = dense(truth.X)[of(truth, kind, "day10")].mean(axis=0) - control
    assert np.corrcoef(observed, told)[0, 1] > 0.9
    assert np.polyfit(told, observed, 1)[0] == pytest.approx(1.0, abs=0.15)


def test_log_delta_is_the_mean_effect_on_cells(wound):
    """A type's mean over noise-free cells, up to the constant of dividing by the sum."""
    truth = wound.truth.adata
    ratio = np.log(np.expm1(truth.layers["mean"]) / np.expm1(truth.layers["control_mean"]))
    for day, name in enumerate(DAYS):
        mean = ratio[of(truth, "Ker", name)].mean(axis=0)
        delta = wound.truth.log_delta[TYPES.index("Ker"), day]
        assert np.std(mean - delta) < 0.1 * np.std(delta)
        assert np.corrcoef(mean, delta)[0, 1] > 0.995


def test_known_responses_have_their_sign(wound):
    def delta(kind: str, gene: str) -> np.ndarray:
        place = list(wound.adata.var_names).index(gene)
        return wound.truth.log_delta[TYPES.index(kind), :, place]

    up = [("Ker", "Krt6a"), ("Fib", "Postn"), ("Neu", "S100a8"), ("Endo", "Kdr"), ("T", "Ccl2")]
    assert all((delta(*pair) > 0).all() for pair in up)
    assert (delta("Ker", "Krt10") < 0).all()


def test_macrophages_go_from_inflammation_to_repair(wound):
    adata, expression = wound.adata, dense(wound.adata.X)
    for name, falls in (("M1_proinflammatory", True), ("M2_prorepair", False)):
        genes = adata.var_names.isin(MARKERS[name].genes)
        score = [
            expression[of(adata, "Mac", day)][:, genes].mean()
            - expression[of(adata, "Mac", day, "Sham")][:, genes].mean()
            for day in DAYS
        ]
        steps = -np.diff(score) if falls else np.diff(score)
        assert (steps > 0.1).all(), (name, score)
        assert score[0 if falls else 2] > 0.5


def test_effect_depends_on_the_cell_and_its_competence(wound):
    truth = wound.truth.adata
    own = of(truth, "Ker", "day10")
    delta = (truth.layers["mean"] - truth.layers["control_mean"])[own]
    assert delta.var(axis=0).sum() > 0.1 * np.square(delta).mean(axis=0).sum()
    competence = truth.obsm["latent"][own, 3]
    size = delta @ delta.mean(axis=0)
    assert np.corrcoef(competence, size)[0, 1] > 0.5


def test_a_type_never_seen_burnt_is_partly_told_by_its_control_expression(wound):
    """Kernel ridge from control to effect over ten types beats their mean effect on the 11th."""
    truth = wound.truth.adata
    before = truth.layers["control_mean"]
    delta = truth.layers["mean"] - before
    rows = [(truth.obs[TYPE] == kind).to_numpy() for kind in TYPES]
    control = np.stack([before[row].mean(axis=0) for row in rows])
    effect = np.stack([delta[row].mean(axis=0) for row in rows])
    gains = []
    for held in range(len(TYPES)):
        seen = np.arange(len(TYPES)) != held
        middle, centre = control[seen].mean(axis=0), effect[seen].mean(axis=0)
        base = control[seen] - middle
        kernel = base @ base.T
        ridge = kernel + 0.05 * np.trace(kernel) * np.eye(len(kernel))
        alpha = np.linalg.solve(ridge, effect[seen] - centre)
        told = centre + (control[held] - middle) @ base.T @ alpha
        gains.append(cosine(told, effect[held]) - cosine(centre, effect[held]))
        assert cosine(centre, effect[held]) < 0.9
    assert np.mean(gains) > 0.05


def test_effect_scale_zero_is_no_effect_and_the_effect_is_linear_in_it():
    tiny = SyntheticSettings(n_cells=600, n_genes=300, embedding_dim=8, effect_scale=0.0)
    truth = simulate(tiny).truth
    assert not truth.log_delta.any()
    assert np.array_equal(truth.adata.layers["mean"], truth.adata.layers["control_mean"])
    full, half = (
        simulate(tiny.model_copy(update={"effect_scale": scale})).truth.log_delta
        for scale in (1.0, 0.5)
    )
    np.testing.assert_allclose(full, 2 * half, rtol=1e-5)


def test_velocity_is_the_derivative_of_the_noise_free_expression():
    cells = draw_cells(500, 600, seed=5)
    tissue = draw_tissue(600, mouse_sd=0.1, effect_scale=1.0, seed=5)
    step = 0.1
    later, earlier = (
        tissue.expected(replace(cells, day=cells.day + h)).log1p_cp10k().astype(np.float64)
        for h in (step, -step)
    )
    difference = (later - earlier) / (2 * step)
    velocity = tissue.expected(cells).velocity()
    np.testing.assert_allclose(velocity, difference, atol=1e-3)
    for cell in np.flatnonzero(cells.burnt):
        assert cosine(velocity[cell], difference[cell]) > 0.999


def test_molecules_keep_the_velocity(wound):
    """The mean of `beta u - gamma s` is the true `ds/dt`, gene by gene, within sampling error."""
    adata, kinetics = wound.adata, wound.truth.adata.var
    cells = draw_cells(CONFIG.n_cells, CONFIG.n_genes, CONFIG.seed)
    tissue = draw_tissue(CONFIG.n_genes, CONFIG.mouse_sd, CONFIG.effect_scale, CONFIG.seed)
    expected = tissue.expected(cells)
    beta, gamma = (
        kinetics[name].to_numpy(dtype=np.float64) for name in ("splicing_rate", "degradation_rate")
    )
    estimate = beta * dense(adata.layers["unspliced"]) - gamma * dense(adata.layers["spliced"])
    truth = 0.85 * cells.depth[:, None] * expected.slope
    clipped = (expected.slope < -gamma * expected.share).any(axis=0)
    assert clipped.mean() < 0.3
    error = (estimate - truth)[cells.burnt][:, ~clipped]
    z = error.mean(axis=0) / (error.std(axis=0, ddof=1) / np.sqrt(len(error)))
    assert np.mean(z**2) == pytest.approx(1.0, abs=0.15)
    # The same statistic, were the velocity zero: the molecules do tell it apart.
    still = estimate[cells.burnt][:, ~clipped]
    z = still.mean(axis=0) / (still.std(axis=0, ddof=1) / np.sqrt(len(still)))
    assert np.mean(z**2) > 2.0


def test_counts_are_negative_binomial():
    tissue = draw_tissue(300, mouse_sd=0.0, effect_scale=0.0, seed=1)
    rng, n_cells = np.random.default_rng(0), 20_000
    share = np.broadcast_to(tissue.typical().share[0], (n_cells, 300))
    activity = measure.draw_activity(rng, n_cells, tissue.programs)
    depth = np.full(n_cells, 600.0)
    counts = dense(measure.draw_counts(rng, Expected(share, 0 * share), activity, depth))
    mean = 600.0 * share[0]
    variance = mean + tissue.programs.overdispersion * mean**2
    z = (counts.mean(axis=0) - mean) / np.sqrt(variance / n_cells)
    assert np.mean(z**2) == pytest.approx(1.0, abs=0.3)
    clear = mean > 0.5
    assert np.median(counts.var(axis=0)[clear] / variance[clear]) == pytest.approx(1.0, abs=0.02)
