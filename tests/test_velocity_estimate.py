"""Estimates of velocity from spliced and unspliced counts, and the command around them."""

from importlib.util import find_spec

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from wound_jax.data.velocity.contract import read_velocity
from wound_jax.data.velocity.estimate import add_gene_velocity
from wound_jax.errors import UserError
from wound_jax.velocity import main

needs_scvelo = pytest.mark.skipif(
    find_spec("scvelo") is None, reason="scVelo is an optional dependency"
)

# --- scVelo, steady state -------------------------------------------------------------------------


def counted(s, u, embedding):
    """Cells with integer-valued layers, so that scVelo takes them for counts."""
    layers = {"spliced": np.round(s), "unspliced": np.round(u)}
    adata = ad.AnnData(layers["spliced"].astype(np.float32), layers=layers)
    adata.obsm["X_pca"] = embedding.astype(np.float32)
    return adata


@needs_scvelo
def test_gamma_is_the_slope_of_the_steady_cells():
    # Cells on the way up lie above u = gamma s; the upper extreme of each gene has arrived.
    t = np.linspace(0, 60, 2000)[:, None]
    gamma = np.array([[0.3, 1.0, 2.5]])
    # Closed form of ds/dt = u - gamma s, du/dt = 1 - u from 0 (gamma 1 taken as its limit).
    other = np.where(gamma == 1, 2.0, gamma)
    general = (1 - np.exp(-other * t)) / other + (np.exp(-other * t) - np.exp(-t)) / (other - 1)
    s = np.where(gamma == 1, 1 - np.exp(-t) - t * np.exp(-t), general)
    u = np.broadcast_to(1 - np.exp(-t), s.shape)
    # A gene that fills every cell up to one depth: normalisation then changes no ratio.
    full = 1e9 - 1e6 * np.stack([s.sum(axis=1), u.sum(axis=1)], axis=1)
    s, u = (np.column_stack([1e6 * x, full[:, i]]) for i, x in enumerate((s, u)))
    adata = counted(s, u, t)
    add_gene_velocity(adata, "steady_state", rep="X_pca", n_neighbours=2)
    np.testing.assert_allclose(adata.var["velocity_gamma"][:3], gamma[0], rtol=1e-4)
    early = (t[:, 0] > 0) & (t[:, 0] < 3)
    assert adata.layers["velocity"][early, :3].min() > 0


@needs_scvelo
def test_smoothing_is_the_mean_over_the_neighbourhood():
    place = np.array([0.0, 1.0, 2.1, 30.0, 31.0, 32.1])[:, None]
    s = np.random.default_rng(1).integers(20, 60, (6, 3)).astype(float)
    adata = counted(s, s[:, ::-1], place)
    add_gene_velocity(adata, "steady_state", rep="X_pca", n_neighbours=2)
    shares = 1e4 * s / s.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(adata.layers["Ms"][0], shares[[0, 1, 2]].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(adata.layers["Ms"][4], shares[[3, 4, 5]].mean(axis=0), rtol=1e-5)


def counted_layers(gamma, n=300, seed=6):
    """Counts of genes at steady state but for the first, which one half of the cells induces."""
    rng = np.random.default_rng(seed)
    s = rng.gamma(4.0, 5.0, (n, len(gamma)))
    induced = np.arange(n) < n // 2
    u = gamma * s
    u[induced, 0] += 6.0
    return rng.poisson(s).astype(np.float32), rng.poisson(u).astype(np.float32), induced


@needs_scvelo
def test_steady_state_velocity_finds_the_induced_gene_and_the_cells():
    gamma = np.array([0.2] + [0.5] * 30 + [0.0])
    s, u, induced = counted_layers(gamma)
    # Neighbours are any cells of the same half.
    place = np.random.default_rng(7).standard_normal((300, 3)) + 100.0 * induced[:, None]
    adata = counted(s, u, place)
    add_gene_velocity(adata, "steady_state", rep="X_pca")
    velocity = np.asarray(adata.layers["velocity"])
    change = velocity[induced, :31].mean(0) - velocity[~induced, :31].mean(0)
    # gamma s cancels: what is left are 6 unspliced counts, scaled as the spliced counts are.
    expected = 6.0 * 1e4 / np.median(s.sum(axis=1))
    np.testing.assert_allclose(change[0], expected, rtol=0.1)
    assert np.abs(change[1:]).max() < 0.25 * expected
    # The last gene was never seen unspliced.
    assert np.isnan(adata.var["velocity_gamma"].iloc[31])
    assert np.isnan(velocity[:, 31]).all()
    assert not adata.var["velocity_genes"].iloc[31]
    shares = adata.layers["Ms"][:, :31].sum(axis=1)
    np.testing.assert_allclose(shares, 1e4, rtol=0.15)


@needs_scvelo
def test_velocity_is_the_residual_of_the_published_fit(shared):
    adata = ad.read_h5ad(shared / "data/pancreas_velocity.h5ad")
    add_gene_velocity(adata, "steady_state", rep="X_pca")
    genes = adata.var["velocity_genes"].to_numpy()
    ms, mu, velocity = (
        np.asarray(adata.layers[name], dtype=float)[:, genes] for name in ("Ms", "Mu", "velocity")
    )
    # gamma = sum u s / sum s^2 over the cells whose s / max s + u / max u is among the largest 5 %.
    size = ms / ms.max(axis=0) + mu / mu.max(axis=0)
    extreme = size >= np.percentile(size, 95, axis=0)
    gamma = (extreme * ms * mu).sum(axis=0) / (extreme * ms**2).sum(axis=0)
    np.testing.assert_allclose(mu - gamma * ms, velocity, atol=1e-4 * ms.max())
    np.testing.assert_allclose(gamma, adata.var["velocity_gamma"][genes], rtol=1e-3)


@needs_scvelo
@pytest.mark.skipif(pd.__version__ >= "3", reason="scVelo 0.3.4 hands pandas.unique a list")
def test_the_full_kinetics_fill_the_same_entries():
    s, u, induced = counted_layers(np.array([0.2] + [0.5] * 5 + [0.0]), n=100)
    place = np.random.default_rng(7).standard_normal((100, 3)) + 100.0 * induced[:, None]
    adata = counted(s, u, place)
    add_gene_velocity(adata, "dynamical", rep="X_pca", n_neighbours=10)
    assert np.isfinite(adata.layers["velocity"][:, adata.var["velocity_genes"]]).any()
    assert adata.obs["velocity_confidence"].between(0, 1).all()
    assert adata.uns["velocity_estimate"]["engine"] == "dynamical"


@needs_scvelo
def test_kinetics_that_scvelo_cannot_fit_name_the_way_out(monkeypatch):
    def fails(*args, **kwargs):
        raise TypeError("unique requires an array")

    monkeypatch.setattr("scvelo.tl.recover_dynamics", fails)
    s, u, induced = counted_layers(np.array([0.2] + [0.5] * 5), n=60)
    adata = counted(s, u, np.random.default_rng(7).standard_normal((60, 3)) + induced[:, None])
    with pytest.raises(UserError, match=r"pip install 'pandas<3', or use --from-spliced steady"):
        add_gene_velocity(adata, "dynamical", rep="X_pca", n_neighbours=10)


@needs_scvelo
def test_no_splicing_signal_is_an_error():
    s = np.ones((20, 4), np.float32)
    embedding = np.arange(20.0)[:, None]
    with pytest.raises(UserError, match="no gene has 20 counts"):
        add_gene_velocity(counted(s, 0 * s, embedding), "steady_state", rep="X_pca", n_neighbours=3)


def test_missing_layers_are_an_error():
    embedded = ad.AnnData(np.ones((20, 4), np.float32))
    embedded.obsm["X_pca"] = embedded.X
    with pytest.raises(UserError, match=r"\['spliced', 'unspliced'\] are missing"):
        add_gene_velocity(embedded, "steady_state", rep="X_pca")


# --- command --------------------------------------------------------------------------------------


def run_add(shared, folder, *options):
    source = shared / "data/pancreas_velocity.h5ad"
    target = folder / "out.h5ad"
    common = ["--input", str(source), "--output", str(target), "--rep", "X_pca"]
    return main(["add", *common, *options]), target


@needs_scvelo
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
        pytest.param(
            ("--from-spliced", "steady_state"), "needs the loadings of X_pca in varm['PCs']",
            marks=needs_scvelo,
        ),
        (("--log1p", "--method", "graph"), "--log1p belongs to --method linear, not to graph"),
        (("--scale", "3"), "--scale belongs to --method graph, not to linear"),
        (("--rep", "X_umap"), "unknown AnnData obsm key 'X_umap'"),
        (("--input", "nowhere.h5ad"), "no file at nowhere.h5ad"),
    ],
)  # fmt: skip
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
    monkeypatch.setattr("wound_jax.data.velocity.estimate.find_spec", lambda name: None)
    assert run_add(shared, tmp_path, "--from-spliced")[0] == 2
    assert "pip install 'wound_jax[velocity]'" in capsys.readouterr().err
