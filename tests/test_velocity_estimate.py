"""Estimates of velocity from spliced and unspliced counts, and the command around them."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from wound_jax.data.velocity.contract import read_velocity
from wound_jax.data.velocity.from_spliced import (
    add_gene_velocity,
    fit_gamma,
    smooth,
    steady_state_velocity,
)
from wound_jax.data.velocity.graph import nearest_neighbours
from wound_jax.errors import UserError
from wound_jax.velocity import main

# --- steady state ---------------------------------------------------------------------------------


def test_gamma_is_the_slope_of_the_steady_cells():
    # Cells on the way up lie above u = gamma s; the upper extreme of each gene has arrived.
    t = np.linspace(0, 60, 2000)[:, None]
    gamma = np.array([[0.3, 1.0, 2.5]])
    # Closed form of ds/dt = u - gamma s, du/dt = 1 - u from 0 (gamma 1 taken as its limit).
    other = np.where(gamma == 1, 2.0, gamma)
    general = (1 - np.exp(-other * t)) / other + (np.exp(-other * t) - np.exp(-t)) / (other - 1)
    s = np.where(gamma == 1, 1 - np.exp(-t) - t * np.exp(-t), general)
    u = np.broadcast_to(1 - np.exp(-t), s.shape)
    found = fit_gamma(s, u)
    np.testing.assert_allclose(found, gamma[0], rtol=1e-4)
    early = (t[:, 0] > 0) & (t[:, 0] < 3)
    assert (u - found * s)[early].min() > 0


def test_smoothing_is_the_mean_over_the_neighbourhood():
    values = sp.csr_matrix(np.arange(12.0).reshape(4, 3))
    found = smooth(values, np.array([[1, 2], [0, 3], [0, 1], [2, 1]]))
    dense = values.toarray()
    np.testing.assert_allclose(found[0], dense[[0, 1, 2]].mean(axis=0))
    np.testing.assert_allclose(found[3], dense[[3, 2, 1]].mean(axis=0))


def counted_layers(gamma, n=300, seed=6):
    """Counts of genes at steady state but for the first, which one half of the cells induces."""
    rng = np.random.default_rng(seed)
    s = rng.gamma(4.0, 5.0, (n, len(gamma)))
    induced = np.arange(n) < n // 2
    u = gamma * s
    u[induced, 0] += 6.0
    return rng.poisson(s).astype(np.float32), rng.poisson(u).astype(np.float32), induced


def test_steady_state_velocity_finds_the_induced_gene_and_the_cells():
    gamma = np.array([0.2] + [0.5] * 30 + [0.0])
    s, u, induced = counted_layers(gamma)
    neighbours = np.random.default_rng(7).integers(0, 150, (300, 30)) + 150 * ~induced[:, None]
    found = steady_state_velocity(sp.csr_matrix(s), sp.csr_matrix(u), neighbours)
    change = found.velocity[induced, :31].mean(0) - found.velocity[~induced, :31].mean(0)
    # gamma s cancels: what is left are 6 unspliced counts, scaled as the spliced counts are.
    expected = 6.0 * 1e4 / np.median(s.sum(axis=1))
    np.testing.assert_allclose(change[0], expected, rtol=0.1)
    assert np.abs(change[1:]).max() < 0.25 * expected
    # The last gene was never seen unspliced.
    assert np.isnan(found.gamma[31])
    assert np.isnan(found.velocity[:, 31]).all()
    assert not found.genes[31]
    shares = found.spliced[:, :31].sum(axis=1)
    np.testing.assert_allclose(shares, 1e4, rtol=0.15)


def test_no_splicing_signal_is_an_error():
    s = np.ones((20, 4), np.float32)
    neighbours = nearest_neighbours(np.arange(20.0)[:, None], 3)
    with pytest.raises(UserError, match="no gene has 20 counts"):
        steady_state_velocity(s, np.zeros_like(s), neighbours)
    with pytest.raises(UserError, match="unspliced is"):
        steady_state_velocity(s, s[:, :2], neighbours)
    embedded = ad.AnnData(s)
    embedded.obsm["X_pca"] = s
    with pytest.raises(UserError, match=r"\['spliced', 'unspliced'\] are missing"):
        add_gene_velocity(embedded, "steady_state", rep="X_pca")


# --- command --------------------------------------------------------------------------------------


def run_add(shared, folder, *options):
    source = shared / "data/pancreas_velocity.h5ad"
    target = folder / "out.h5ad"
    common = ["--input", str(source), "--output", str(target), "--rep", "X_pca"]
    return main(["add", *common, *options]), target


def test_add_and_diagnose_on_real_cells_follow_the_known_lineage(shared, tmp_path, capsys):
    status, target = run_add(
        shared, tmp_path, "--from-spliced", "steady_state", "--method", "graph"
    )
    assert status == 0
    adata = ad.read_h5ad(target)
    velocity = read_velocity(adata, "obsm/X_pca")
    assert velocity.known.all()
    assert 0.5 < np.median(velocity.confidence) < 0.9
    types = adata.obs["cell_type"].to_numpy()
    z = np.asarray(adata.obsm["X_pca"])
    for before, after in (("Ngn3 high EP", "Pre-endocrine"), ("Pre-endocrine", "Beta")):
        step = z[types == after].mean(axis=0) - z[types == before].mean(axis=0)
        for stage in (before, after):
            assert (velocity.velocity[types == stage] @ step).mean() > 0, (stage, before, after)
    columns = ["--pert-col", "cell_type", "--control", "Ngn3 high EP", "--cell-type-col", "batch"]
    csv = tmp_path / "table.csv"
    arguments = ["--input", str(target), "--rep", "X_pca", *columns, "--csv", str(csv)]
    assert main(["diagnose", *arguments]) == 0
    verdicts = pd.read_csv(csv).set_index("condition")["verdict"]
    assert verdicts["Pre-endocrine"] == "towards Pre-endocrine"
    assert "towards Pre-endocrine" in capsys.readouterr().out


def with_loadings(x, representation, loadings, **layers):
    adata = ad.AnnData(x, layers=layers)
    adata.obsm["X_pca"], adata.varm["PCs"] = representation, loadings
    return adata


def test_linear_projection_by_the_command(tmp_path):
    rng = np.random.default_rng(8)
    x, w = rng.standard_normal((40, 6)), rng.standard_normal((6, 2))
    v, ms = rng.standard_normal((40, 6)), rng.uniform(0, 3, (40, 6))
    source, target = tmp_path / "in.h5ad", tmp_path / "out.h5ad"
    with_loadings(x, x @ w, w, velocity=v, Ms=ms).write_h5ad(source)
    files = ["--input", str(source), "--output", str(target), "--neighbours", "5"]
    assert main(["add", *files, "--rep", "X_pca"]) == 0
    written = ad.read_h5ad(target)
    np.testing.assert_allclose(written.obsm["velocity_X_pca"], v @ w, rtol=1e-4, atol=1e-5)
    assert written.obs["velocity_confidence"].between(0, 1).all()
    assert main(["add", *files, "--rep", "X_pca", "--overwrite", "--log1p"]) == 0
    logged = ad.read_h5ad(target).obsm["velocity_X_pca"]
    np.testing.assert_allclose(logged, (v / (1 + ms)) @ w, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "add --from-spliced to estimate it (needs pip install 'wound_jax[velocity]')"),
        (("--from-spliced", "steady_state"), "needs the loadings of X_pca in varm['PCs']"),
        (("--log1p", "--method", "graph"), "--log1p belongs to --method linear, not to graph"),
        (("--scale", "3"), "--scale belongs to --method graph, not to linear"),
        (("--rep", "X_umap"), "unknown AnnData obsm key 'X_umap'"),
        (("--input", "nowhere.h5ad"), "no file at nowhere.h5ad"),
    ],
)
def test_mistakes_end_with_a_message_and_status_2(shared, tmp_path, capsys, options, message):
    status, target = run_add(shared, tmp_path, *options)
    assert status == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert message in shown
    assert not target.exists()


def test_loadings_of_another_matrix_are_refused(tmp_path, capsys):
    rng = np.random.default_rng(9)
    x, w = rng.standard_normal((40, 6)), rng.standard_normal((6, 2))
    with_loadings(x, x @ w, w[::-1], velocity=x).write_h5ad(tmp_path / "in.h5ad")
    files = ["--input", str(tmp_path / "in.h5ad"), "--output", str(tmp_path / "out.h5ad")]
    assert main(["add", *files, "--rep", "X_pca", "--neighbours", "5"]) == 2
    assert "does not reproduce obsm['X_pca']" in capsys.readouterr().err


def test_scvelo_missing_names_the_extra(shared, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("wound_jax.data.velocity.from_spliced.find_spec", lambda name: None)
    assert run_add(shared, tmp_path, "--from-spliced")[0] == 2
    assert "pip install 'wound_jax[velocity]'" in capsys.readouterr().err


def test_scvelo_agrees_with_the_built_in_estimate(shared):
    scv = pytest.importorskip("scvelo", reason="scVelo is an optional dependency")
    adata = ad.read_h5ad(shared / "data/pancreas_velocity.h5ad")
    ours = adata.copy()
    add_gene_velocity(adata, "scvelo", rep="X_pca")
    add_gene_velocity(ours, "steady_state", rep="X_pca")
    # The same fit, given scVelo's moments ...
    genes = adata.var["velocity_genes"].to_numpy()
    ms, mu = (np.asarray(adata.layers[name], dtype=float)[:, genes] for name in ("Ms", "Mu"))
    velocity = np.asarray(adata.layers["velocity"])[:, genes]
    np.testing.assert_allclose(mu - fit_gamma(ms, mu) * ms, velocity, atol=1e-4)
    # ... and nearly the same with our own, which weigh all neighbours alike.
    both = genes & ours.var["velocity_genes"].to_numpy()
    theirs, own = (np.asarray(a.layers["velocity"])[:, both].ravel() for a in (adata, ours))
    assert np.corrcoef(theirs, own)[0, 1] > 0.8, scv.__version__
