"""Directions from a pseudotime: transitions, known curves, cells left out, and the command."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from wound_jax.data.velocity.contract import read_velocity
from wound_jax.data.velocity.graph import nearest_neighbours
from wound_jax.data.velocity.pseudotime import (
    PseudotimeOptions,
    add_pseudotime_velocity,
    control_rooted_pseudotime,
    diffusion_pseudotime,
    forward_transitions,
    medoid,
    unit_interval,
)
from wound_jax.errors import UserError

GENES = 30


def curve(n=500, seed=0):
    """Cells along a bent curve in gene space: their times, expression and tangents."""
    rng = np.random.default_rng(seed)
    time = rng.uniform(0, 1, n)
    shape = rng.standard_normal((2, GENES))
    place = np.stack([6 * time, np.sin(6 * time)], axis=1) @ shape
    tangent = np.stack([np.full(n, 6.0), 6 * np.cos(6 * time)], axis=1) @ shape
    return time, place + 0.3 * rng.standard_normal((n, GENES)), tangent


def cells(time, expression, **columns) -> ad.AnnData:
    """Cells whose first half of the time is of controls; X holds no integers, so it is log-like."""
    obs = {"condition": np.where(time < 0.5, "Sham", "Burn"), "time": time, "type": "Fib"}
    names = pd.Index([f"c{i}" for i in range(len(time))])
    adata = ad.AnnData(expression.astype(np.float32), obs=pd.DataFrame(obs | columns, index=names))
    adata.obsm["X_emb"] = expression.astype(np.float32)
    return adata


def cosines(a, b):
    scale = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / np.maximum(scale, 1e-12)


# --- transitions ----------------------------------------------------------------------------------


def test_transitions_equal_the_published_rules_cell_by_cell():
    rng = np.random.default_rng(1)
    time, neighbours = rng.uniform(0, 1, 40), nearest_neighbours(rng.standard_normal((40, 3)), 10)
    soft = forward_transitions(time, neighbours, "soft")
    hard = forward_transitions(time, neighbours, "hard")
    for i in range(40):
        weights, kept = np.ones(10), np.ones(10)
        for place, j in enumerate(neighbours[i]):
            if time[j] < time[i]:
                weights[place] = 2 / (1 + np.exp(10 * (time[i] - time[j]))) ** (1 / 0.5)
                kept[place] = float(place < 3)
        np.testing.assert_allclose(soft[i], weights / weights.sum(), rtol=1e-12)
        np.testing.assert_allclose(hard[i], kept / kept.sum(), rtol=1e-12)
    with pytest.raises(UserError, match="Did you mean 'soft'"):
        forward_transitions(time, neighbours, "sotf")


# --- pseudotime -----------------------------------------------------------------------------------


def test_diffusion_pseudotime_orders_a_curve_and_leaves_islands_out():
    time, expression, _ = curve()
    root = int(time.argmin())
    found = diffusion_pseudotime(expression, root, 20)
    assert found[root] == 0
    assert found.max() == 1
    # Diffusion distance saturates where the curve ends, but the order stays.
    assert pd.Series(found).corr(pd.Series(time), method="spearman") > 0.98
    island = np.concatenate([expression, expression[:60] + 1e3])
    apart = diffusion_pseudotime(island, root, 20)
    assert np.isnan(apart[500:]).all()
    np.testing.assert_allclose(apart[:500], found, atol=0.02)


def test_the_root_is_the_medoid_of_the_control_cells():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((50, 4))
    total = np.array([[np.linalg.norm(a - b) for b in x] for a in x]).sum(axis=1)
    assert medoid(x) == int(total.argmin())
    is_control = np.arange(50) >= 20
    found = control_rooted_pseudotime(x, is_control, 8)
    assert int(np.nanargmin(found)) == 20 + medoid(x[20:])


def test_times_are_brought_to_the_unit_interval():
    np.testing.assert_allclose(
        unit_interval(np.array([3.0, np.nan, 5.0, 4.0])), [0, np.nan, 1, 0.5]
    )
    np.testing.assert_array_equal(unit_interval(np.array([7.0, 7.0])), [0, 0])


# --- directions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("scheme", "least"), [("soft", 0.85), ("hard", 0.75)])
@pytest.mark.parametrize("key", ["obsm/X_emb", "X"])
def test_directions_follow_a_known_curve(scheme, least, key):
    time, expression, tangent = curve()
    adata = cells(time, expression)
    add_pseudotime_velocity(
        adata, PseudotimeOptions(key, "time", scheme=scheme, trust_scale=key == "X")
    )
    found = read_velocity(adata, key)
    along = cosines(found.velocity, tangent)
    assert along.mean() > least
    assert (along > 0).mean() > 0.98
    assert 0 <= found.confidence.min() <= found.confidence.max() <= 1
    assert found.confidence.mean() > 0.6
    np.testing.assert_allclose(
        adata.obs["velocity_magnitude"], np.linalg.norm(found.velocity, axis=1), rtol=1e-5
    )
    backwards = cells(time, expression)
    backwards.obs["time"] = -time
    add_pseudotime_velocity(
        backwards, PseudotimeOptions(key, "time", scheme=scheme, trust_scale=key == "X")
    )
    assert (cosines(read_velocity(backwards, key).velocity, tangent) < 0).mean() > 0.98


def test_directions_part_at_a_branching():
    rng = np.random.default_rng(3)
    n = 600
    time, branch = rng.uniform(0, 1, n), rng.integers(0, 2, n)
    trunk, arms = np.eye(8)[0], np.eye(8)[1:3]
    late = np.maximum(time - 0.4, 0)[:, None]
    place = 10 * (np.minimum(time, 0.4)[:, None] * trunk + late * arms[branch])
    adata = cells(time, place + 0.15 * rng.standard_normal((n, 8)))
    add_pseudotime_velocity(adata, PseudotimeOptions("obsm/X_emb", "time"))
    velocity = adata.obsm["velocity_X_emb"]
    for own in (0, 1):
        there = (branch == own) & (time > 0.55)
        assert cosines(velocity[there], arms[[own]]).mean() > 0.8
        assert abs(cosines(velocity[there], arms[[1 - own]]).mean()) < 0.1
    assert cosines(velocity[(time > 0.05) & (time < 0.3)], trunk[None]).mean() > 0.8


def test_directions_of_genes_and_of_their_components_agree():
    """Moving along a graph commutes with a linear map, whatever the origin of the components."""
    time, expression, _ = curve(n=200)
    adata = cells(time, expression)
    loadings = np.linalg.qr(np.random.default_rng(4).standard_normal((GENES, 5)))[0]
    adata.obsm["X_lin"] = ((expression - expression.mean(axis=0)) @ loadings).astype(np.float32)
    add_pseudotime_velocity(adata, PseudotimeOptions("obsm/X_lin", "time"))
    add_pseudotime_velocity(
        adata, PseudotimeOptions("X", "time", neighbours_in="X_lin", trust_scale=True)
    )
    np.testing.assert_allclose(
        adata.layers["velocity"] @ loadings, adata.obsm["velocity_X_lin"], atol=1e-4
    )


FROM_CONTROL = PseudotimeOptions("obsm/X_emb", groups="type")


def test_without_a_column_time_runs_from_the_control_cells_of_each_type():
    time, expression, tangent = curve()
    twin = np.concatenate([expression, 50 - expression])
    types = np.repeat(["Fib", "Mac"], 500)
    adata = cells(np.tile(time, 2), twin, type=types)
    table = add_pseudotime_velocity(adata, FROM_CONTROL).set_index("group")
    assert (table["treated_later"] > 0.9).all()
    assert (table["with_direction"] == 500).all()
    late = time > 0.5
    velocity = adata.obsm["velocity_X_emb"]
    assert cosines(velocity[:500][late], tangent[late]).mean() > 0.8
    assert cosines(velocity[500:][late], -tangent[late]).mean() > 0.8
    assert adata.obs["velocity_pseudotime"].between(0, 1).all()


@pytest.mark.parametrize("options", [FROM_CONTROL, PseudotimeOptions("obsm/X_emb", "time")])
def test_the_order_of_the_cells_does_not_matter(options):
    time, expression, _ = curve(n=300)
    adata = cells(time, expression)
    order = np.random.default_rng(5).permutation(300)
    shuffled = adata[order].copy()
    add_pseudotime_velocity(adata, options)
    add_pseudotime_velocity(shuffled, options)
    # scanpy keeps eigenvectors as float32, started from a vector that is not permuted.
    for name in ("velocity_pseudotime", "velocity_confidence"):
        np.testing.assert_allclose(shuffled.obs[name], adata.obs[name].to_numpy()[order], atol=1e-3)
    np.testing.assert_allclose(
        shuffled.obsm["velocity_X_emb"], adata.obsm["velocity_X_emb"][order], atol=2e-3
    )


@pytest.mark.parametrize("key", ["obsm/X_emb", "X"])
def test_cells_left_out_get_no_direction_and_shape_none(key):
    time, expression, _ = curve()
    replicates = np.random.default_rng(6).choice(["m1", "m2", "m3"], 500)
    held_out = replicates == "m3"
    options = PseudotimeOptions(
        key, groups="type", leave_out={"replicate": ("m3",)}, n_neighbours=20, trust_scale=True
    )
    adata = cells(time, expression, replicate=replicates)
    add_pseudotime_velocity(adata, options)
    # What the held-out cells are makes no difference to the others.
    elsewhere = expression.copy()
    elsewhere[held_out] = np.random.default_rng(7).standard_normal((held_out.sum(), GENES)) - 9
    other = cells(time, elsewhere, replicate=replicates)
    add_pseudotime_velocity(other, options)
    found, again = (read_velocity(a, key) for a in (adata, other))
    np.testing.assert_array_equal(found.known, ~held_out)
    np.testing.assert_array_equal(found.velocity, again.velocity)
    np.testing.assert_array_equal(found.velocity[held_out], 0)
    np.testing.assert_array_equal(found.confidence[held_out], 0)
    assert (found.confidence[~held_out] > 0).mean() > 0.98
    assert adata.obs["velocity_pseudotime"].isna().tolist() == held_out.tolist()
    note = adata.uns["velocity_estimate"]
    assert note["left_out"] == "replicate=m3"
    assert note["cells_left_out"] == held_out.sum()
    assert "no RNA velocity" in note["caution"]


def test_small_groups_and_unknown_times_get_no_direction():
    time, expression, _ = curve(n=300)
    adata = cells(time, expression)
    adata.obs["type"] = np.where(np.arange(300) < 15, "Mast", "Fib")
    adata.obs["time"] = np.where(np.arange(300) < 20, np.resize([np.nan, np.inf], 300), time)
    table = add_pseudotime_velocity(
        adata, PseudotimeOptions("obsm/X_emb", "time", groups="type", n_neighbours=10)
    )
    known = read_velocity(adata, "obsm/X_emb").known
    assert not known[:20].any()
    assert known[20:].all()
    assert table.set_index("group")["with_direction"].to_dict() == {"Fib": 280, "Mast": 0}


def test_a_pseudotime_that_does_not_vary_is_refused():
    time, expression, _ = curve(n=60)
    adata = cells(time, expression)
    adata.obs["time"] = 3.0
    with pytest.raises(UserError, match="the pseudotime does not vary"):
        add_pseudotime_velocity(adata, PseudotimeOptions("obsm/X_emb", "time", n_neighbours=10))


# --- real cells -----------------------------------------------------------------------------------


def test_on_real_cells_time_from_a_progenitor_follows_the_known_lineage(shared):
    adata = ad.read_h5ad(shared / "data/pancreas_velocity.h5ad")
    options = PseudotimeOptions(
        "obsm/X_pca", groups="batch", condition="cell_type", control="Ngn3 high EP"
    )
    add_pseudotime_velocity(adata, options)
    types, z = adata.obs["cell_type"].to_numpy(), np.asarray(adata.obsm["X_pca"])
    velocity = adata.obsm["velocity_X_pca"]
    for before, after in (("Ngn3 high EP", "Pre-endocrine"), ("Pre-endocrine", "Beta")):
        step = z[types == after].mean(axis=0) - z[types == before].mean(axis=0)
        for stage in (before, after):
            assert cosines(velocity[types == stage], step[None]).mean() > 0.2, (stage, after)
