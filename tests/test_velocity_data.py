"""Velocity of cells: the data contract, and projections to a representation."""

import anndata as ad
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from wound_jax.data.velocity.contract import read_velocity, velocity_keys
from wound_jax.data.velocity.graph import (
    drift,
    nearest_neighbours,
    neighbour_confidence,
    project_graph,
)
from wound_jax.data.velocity.projection import (
    loadings_agreement,
    log1p_velocity,
    project_encoder,
    project_linear,
)
from wound_jax.errors import UserError

pytestmark = pytest.mark.quick

CELLS, GENES, DIMS = 6, 5, 3


def cells(**parts) -> ad.AnnData:
    """Cells with a gene matrix, an embedding, confidences, and what else a test asks for."""
    rng = np.random.default_rng(0)
    adata = ad.AnnData(
        rng.standard_normal((CELLS, GENES)).astype(np.float32),
        obs=pd.DataFrame(
            {"velocity_confidence": np.linspace(0, 1, CELLS)}, index=pd.Index(list("abcdef"))
        ),
    )
    adata.obsm["X_pca"] = rng.standard_normal((CELLS, DIMS)).astype(np.float32)
    for kind, values in parts.items():
        getattr(adata, kind).update(values)
    return adata


def velocities(width, seed=1):
    return np.random.default_rng(seed).standard_normal((CELLS, width)).astype(np.float32)


# --- contract -------------------------------------------------------------------------------------


def test_gene_velocity_with_unknown_genes_and_cells():
    v = velocities(GENES)
    v[2] = np.nan
    v[4, 1] = np.nan
    genes = np.array([True, True, False, True, True])
    adata = cells(layers={"velocity": v})
    adata.var["velocity_genes"] = genes
    found = read_velocity(adata, "X")
    expected = np.where(np.isnan(v) | ~genes, 0, v)
    np.testing.assert_array_equal(found.velocity, expected)
    np.testing.assert_array_equal(found.known, [True, True, False, True, True, True])
    np.testing.assert_array_equal(found.dims, genes)
    np.testing.assert_allclose(found.confidence, [0, 0.2, 0, 0.6, 0.8, 1.0], rtol=1e-6)
    assert found.source == "layers/velocity"
    sparse = cells(layers={"velocity": sp.csr_matrix(np.nan_to_num(v))})
    np.testing.assert_array_equal(read_velocity(sparse, "X").velocity, np.nan_to_num(v))


def test_a_row_of_an_embedding_counts_only_as_a_whole():
    v = velocities(DIMS)
    v[3, 0] = np.nan
    found = read_velocity(cells(obsm={"velocity_X_pca": v}), "obsm/X_pca", confidence=None)
    np.testing.assert_array_equal(found.known, [True, True, True, False, True, True])
    np.testing.assert_array_equal(found.velocity[3], 0)
    np.testing.assert_array_equal(found.velocity[4], v[4])
    np.testing.assert_array_equal(found.confidence, found.known.astype(np.float32))


def test_names_an_embedding_velocity_may_have():
    own, scvelo = velocities(DIMS, 1), velocities(DIMS, 2)
    both = cells(obsm={"velocity_X_pca": own, "velocity_pca": scvelo})
    np.testing.assert_array_equal(read_velocity(both, "obsm/X_pca").velocity, own)
    np.testing.assert_array_equal(
        read_velocity(cells(obsm={"velocity_pca": scvelo}), "obsm/X_pca").velocity, scvelo
    )
    assert velocity_keys("X") == velocity_keys("layers/log") == ("layers/velocity",)


def test_latent_velocity_belongs_to_the_basis_it_names():
    v = velocities(DIMS)
    adata = cells(obsm={"velocity_latent": v, "X_latent": v})
    for key in ("obsm/X_pca", "obsm/X_latent"):
        with pytest.raises(UserError, match=r"uns\['velocity_latent_basis'\] is not set"):
            read_velocity(adata, key)
    adata.uns["velocity_latent_basis"] = "X_pca"
    np.testing.assert_array_equal(read_velocity(adata, "obsm/X_pca").velocity, v)
    with pytest.raises(UserError, match="is 'X_pca'"):
        read_velocity(adata, "obsm/X_latent")


@pytest.mark.parametrize(
    ("key", "parts", "message"),
    [
        ("X", {}, r"none for X.*layers: none; obsm: X_pca; obs: velocity_confidence"),
        ("X", {"layers": {"spliced": velocities(GENES), "unspliced": velocities(GENES)}},
         "add --from-spliced"),
        ("obsm/X_pca", {"layers": {"velocity": velocities(GENES)}}, "add --rep X_pca"),
        ("obsm/X_pca", {"obsm": {"velocity_X_pca": velocities(2)}}, "2 columns, but .* has 3"),
        ("obsm/X_umap", {}, "unknown AnnData obsm key 'X_umap'"),
        ("X", {"layers": {"velocity": np.full((CELLS, GENES), np.nan)}}, "every cell is NaN"),
        ("X", {"layers": {"velocity": np.full((CELLS, GENES), np.inf)}}, "infinite"),
        ("X", {"layers": {"velocity": velocities(GENES)}, "var": {"velocity_genes": [False] * 5}},
         "False for all genes"),
        ("X", {"layers": {"velocity": velocities(GENES)}, "var": {"velocity_genes": ["yes"] * 5}},
         "must be boolean"),
    ],
)  # fmt: skip
def test_velocity_asked_for_and_not_usable_is_an_error(key, parts, message):
    columns = parts.get("var", {})
    adata = cells(**{kind: part for kind, part in parts.items() if kind != "var"})
    for name, values in columns.items():
        adata.var[name] = values
    with pytest.raises(UserError, match=message):
        read_velocity(adata, key)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 0, 0, 0, 0, 1.5], r"runs from 0 to 1\.5"),
        ([-0.1, 0, 0, 0, 0, 1], r"runs from -0\.1 to 1"),
        ([np.nan] * 6, "NaN for all cells"),
        (["high"] * 6, r"must hold numbers in \[0, 1\]"),
        (None, r"there is no obs\['velocity_confidence'\]; obs has batch"),
    ],
)
def test_confidences_out_of_contract_are_errors(values, message):
    adata = cells(layers={"velocity": velocities(GENES)})
    adata.obs = pd.DataFrame({"batch": ["b"] * CELLS}, index=adata.obs_names)
    if values is not None:
        adata.obs["velocity_confidence"] = values
    with pytest.raises(UserError, match=message):
        read_velocity(adata, "X")


def test_a_missing_confidence_counts_as_none():
    adata = cells(layers={"velocity": velocities(GENES)})
    adata.obs["velocity_confidence"] = [np.nan, 1, 1, 1, 1, 1]
    np.testing.assert_array_equal(read_velocity(adata, "X").confidence, [0, 1, 1, 1, 1, 1])


# --- projections ----------------------------------------------------------------------------------


def test_linear_projection_is_the_motion_of_the_representation():
    rng = np.random.default_rng(2)
    x, v, w = rng.standard_normal((7, 9)), rng.standard_normal((7, 9)), rng.standard_normal((9, 4))
    moved = (x + v) @ w - x @ w
    np.testing.assert_allclose(project_linear(v, w), moved, rtol=1e-4, atol=1e-5)
    v[0], v[1, 3] = np.nan, np.nan
    found = project_linear(v, w)
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(found[1], np.nan_to_num(v[1]) @ w, rtol=1e-4, atol=1e-5)
    assert loadings_agreement(x, w, (x - x.mean(0)) @ w) == pytest.approx(1.0, abs=1e-5)
    assert abs(loadings_agreement(x, w, x @ rng.standard_normal((9, 4)))) < 0.9


def test_encoder_projection_against_finite_differences():
    rng = np.random.default_rng(3)
    x, v = rng.uniform(0, 2, (10, 6)), rng.standard_normal((10, 6))
    w = rng.standard_normal((6, 4))

    def encoder(x, xp=jnp):
        return xp.tanh(xp.log1p(x) @ w) / (1 + (x**2).sum(axis=-1, keepdims=True))

    h = 1e-5
    expected = (encoder(x + h * v, np) - encoder(x - h * v, np)) / (2 * h)
    found = project_encoder(encoder, x, v, batch_size=4)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(project_encoder(encoder, x, v, batch_size=256).shape, (10, 4))
    v[9] = np.nan
    assert np.isnan(project_encoder(encoder, x, v, batch_size=4)[9]).all()


def test_log_velocity_is_the_derivative_of_the_logarithm():
    s, v = np.array([[0.0, 3.0, 8.0]]), np.array([[1.0, -2.0, 9.0]])
    derivative = jax.jvp(jnp.log1p, (jnp.asarray(s),), (jnp.asarray(v),))[1]
    np.testing.assert_allclose(log1p_velocity(v, s), derivative, rtol=1e-6)


def swirl(n=400, genes=40, seed=4):
    """Cells on a bent sheet in gene space that turn about its middle."""
    rng = np.random.default_rng(seed)
    plane = rng.uniform(-1, 1, (n, 2))
    turn = np.stack([-plane[:, 1], plane[:, 0]], axis=1)
    w = rng.standard_normal((2, genes))
    expression = np.tanh(plane @ w)
    velocity = (1 - expression**2) * (turn @ w)
    return plane, turn, expression, velocity


def mean_cosine(a, b):
    scale = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / scale).mean())


def test_graph_projection_recovers_a_known_flow_on_a_curved_manifold():
    plane, turn, expression, velocity = swirl()
    neighbours = nearest_neighbours(plane, 20)
    # At the rim all neighbours lie on one side.
    inner = (np.abs(plane) < 0.8).all(axis=1)
    found = project_graph(velocity, expression, plane, neighbours)
    assert mean_cosine(found[inner], turn[inner]) > 0.95
    backwards = project_graph(-velocity, expression, plane, neighbours)
    assert mean_cosine(backwards[inner], turn[inner]) < -0.95
    unrelated = project_graph(velocity[::-1], expression, plane, neighbours)
    assert abs(mean_cosine(unrelated[inner], turn[inner])) < 0.2


def test_graph_projection_equals_the_formula_cell_by_cell(monkeypatch):
    plane, _, expression, velocity = swirl(n=25, genes=7)
    velocity[:, 3] = np.nan
    velocity[11] = np.nan
    neighbours = nearest_neighbours(plane, 5)
    # Chunks of a few cells.
    monkeypatch.setattr("wound_jax.data.velocity.graph._CHUNK_BYTES", 5 * 6 * 8 * 4)
    found = project_graph(velocity, expression, plane, neighbours, scale=4.0)
    genes = [0, 1, 2, 4, 5, 6]
    for i in (0, 7, 24):
        correlation = [
            np.corrcoef(expression[j, genes] - expression[i, genes], velocity[i, genes])[0, 1]
            for j in neighbours[i]
        ]
        t = np.exp(4.0 * np.array(correlation))
        expected = (t / t.sum() - 1 / 5) @ (plane[neighbours[i]] - plane[i])
        np.testing.assert_allclose(found[i], expected, rtol=1e-5)
    assert np.isnan(found[11]).all()


def test_confidence_is_the_agreement_with_neighbours():
    plane, _, _, velocity = swirl(n=200)
    neighbours = nearest_neighbours(plane, 10)
    smooth_flow = neighbour_confidence(velocity, neighbours)
    noise = neighbour_confidence(np.random.default_rng(5).permutation(velocity), neighbours)
    assert np.median(smooth_flow) > 0.9 > 0.3 > np.median(noise)
    assert 0 <= noise.min() <= smooth_flow.max() <= 1
    velocity[3] = np.nan
    partial = neighbour_confidence(velocity, neighbours)
    i = int(neighbours[3, 0])
    known = [j for j in neighbours[i] if j != 3]
    expected = np.mean([np.corrcoef(velocity[i], velocity[j])[0, 1] for j in known])
    np.testing.assert_allclose(partial[i], expected, rtol=1e-4)
    assert partial[3] == 0


def test_confidence_in_an_embedding_is_the_plain_cosine():
    rng = np.random.default_rng(6)
    velocity = rng.standard_normal((30, 3)) + 2.0
    velocity[4] = 0.0
    neighbours = nearest_neighbours(rng.standard_normal((30, 2)), 5)
    found = neighbour_confidence(velocity, neighbours, centred=False)
    unit = velocity / np.maximum(np.linalg.norm(velocity, axis=1, keepdims=True), 1e-12)
    expected = (unit[neighbours] @ unit[:, :, None])[..., 0].mean(axis=1)
    np.testing.assert_allclose(found, expected.clip(0, 1), rtol=1e-5)
    assert found[4] == 0


def test_drift_is_the_excess_of_transitions_over_uniform_ones():
    rng = np.random.default_rng(7)
    transitions, values = rng.dirichlet(np.ones(4), 9), rng.standard_normal((12, 3))
    neighbours = np.array([rng.choice(12, 4, replace=False) for _ in range(9)])
    found = drift(transitions, values, neighbours)
    for i in range(9):
        steps = values[neighbours[i]] - values[i]
        np.testing.assert_allclose(found[i], (transitions[i] - 1 / 4) @ steps, atol=1e-6)


def test_neighbours_leave_the_cell_itself_out():
    line = np.array([[0.0], [1.0], [3.0], [3.0]])
    np.testing.assert_array_equal(nearest_neighbours(line, 1)[:, 0], [1, 0, 3, 2])
    with pytest.raises(UserError, match="between 1 and 3"):
        nearest_neighbours(line, 4)
