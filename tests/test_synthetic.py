import json
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wound_jax.data.settings import SyntheticSettings
from wound_jax.data.source import layer_names
from wound_jax.data.synthetic import SyntheticWound, simulate
from wound_jax.data.synthetic.cells import draw_cells
from wound_jax.data.synthetic.design import GROUPS, MICE, cells_per_group, cells_per_mouse
from wound_jax.data.synthetic.markers import IDENTITY, MARKERS, TYPES, genes_of
from wound_jax.data.synthetic.measure import draw_tissue
from wound_jax.synthetic import main

pytestmark = pytest.mark.blas

DAYS = ("day10", "day14", "day19")
TYPE = "cell_types_simple_short"
TINY = SyntheticSettings(n_cells=600, n_genes=300, embedding_dim=8)


@pytest.fixture(scope="module")
def wound() -> SyntheticWound:
    return simulate(SyntheticSettings(n_cells=4000, n_genes=1000, embedding_dim=16, seed=3))


def frame(table) -> pd.DataFrame:
    assert isinstance(table, pd.DataFrame)
    return table


def dense(matrix) -> np.ndarray:
    return matrix if isinstance(matrix, np.ndarray) else matrix.toarray()


def matrices(wound: SyntheticWound) -> dict[str, np.ndarray]:
    found = {"delta": wound.truth.log_delta}
    for part, adata in (("cells", wound.adata), ("truth", wound.truth.adata)):
        layers = {name: adata.layers[name] for name in layer_names(adata)}
        for key, matrix in {"X": adata.X, **layers, **adata.obsm}.items():
            found[f"{part} {key}"] = dense(matrix)
    return found


def test_same_settings_same_numbers_and_each_seed_its_own():
    first, again = simulate(TINY), simulate(TINY)
    repeated = matrices(again)
    other = matrices(simulate(TINY.model_copy(update={"seed": -42})))
    for key, matrix in matrices(first).items():
        assert matrix.tobytes() == repeated[key].tobytes(), key
        assert not np.array_equal(matrix, other[key], equal_nan=True), key
    assert frame(first.adata.obs).equals(frame(again.adata.obs))


def test_programs_do_not_depend_on_the_number_of_cells():
    few, more = simulate(TINY).truth, simulate(TINY.model_copy(update={"n_cells": 700})).truth
    assert np.array_equal(few.log_delta, more.log_delta)
    assert frame(few.adata.var).equals(frame(more.adata.var))


def test_matrices_are_what_they_are_called(wound):
    adata, obs = wound.adata, frame(wound.adata.obs)
    for name in ("counts", "spliced", "unspliced"):
        layer = adata.layers[name]
        assert layer.dtype == np.float32
        assert np.array_equal(layer.data, np.round(layer.data))
        assert layer.data.min() > 0
    counts = dense(adata.layers["counts"]).astype(np.float64)
    assert np.array_equal(obs["n_counts"], counts.sum(axis=1))
    expected = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    assert adata.X.dtype == np.float32
    np.testing.assert_allclose(dense(adata.X), expected, rtol=1e-6)
    spliced = dense(adata.layers["spliced"])
    assert (spliced <= counts).all()
    assert spliced.sum() / counts.sum() == pytest.approx(0.85, abs=0.005)


def test_velocity_is_known_for_expressed_genes_only(wound):
    obs, known = frame(wound.adata.obs), frame(wound.adata.var)["velocity_genes"].to_numpy()
    velocity = wound.adata.layers["velocity"]
    assert velocity.dtype == np.float32
    assert np.isfinite(velocity[:, known]).all()
    assert np.isnan(velocity[:, ~known]).all()
    counts = dense(wound.adata.layers["counts"]).mean(axis=0)
    assert 0.3 < known.mean() < 0.9
    assert np.median(counts[known]) > 3 * np.median(counts[~known])
    assert obs["velocity_confidence"].between(0, 1).all()
    mean = obs.groupby("condition", observed=True)["velocity_confidence"].mean()
    assert mean["Burn"] > 5 * mean["Sham"]


def test_default_composition_is_that_of_the_plan():
    table = cells_per_group(57_298)
    groups = {(g.condition, g.day): int(n) for g, n in zip(GROUPS, table.sum(axis=1), strict=True)}
    assert [groups["Burn", day] for day in (10, 14, 19)] == [8904, 7393, 8558]
    assert [groups["Sham", day] for day in (10, 14, 19)] == [7573, 13797, 11073]
    types = dict(zip(TYPES, table.sum(axis=0), strict=True))
    five = [types.pop(kind) for kind in ("Ker", "Fib", "Neu", "Mac", "Mus")]
    assert five == [18579, 11299, 11178, 6258, 2348]
    assert sum(types.values()) == 7636


def test_neutrophils_and_macrophages_gather_in_burnt_skin():
    """Odds against endothelium; raking to the plan's margins keeps them."""
    table = cells_per_group(57_298)
    endothelium = table[:, TYPES.index("Endo")]
    for kind, expected in (("Neu", (3.0, 2.2, 1.5)), ("Mac", (2.2, 1.9, 1.5))):
        odds = table[:, TYPES.index(kind)] / endothelium
        np.testing.assert_allclose(odds[:3] / odds[3:], expected, rtol=0.03)
        share = table[:, TYPES.index(kind)] / table.sum(axis=1)
        assert (share[:3] > 1.2 * share[3:]).all()


@given(n_cells=st.integers(500, 60_000), seed=st.integers(-5, 5))
@settings(max_examples=25, deadline=None)
def test_any_number_of_cells_is_dealt_out_exactly(n_cells, seed):
    table = cells_per_group(n_cells)
    assert table.sum() == n_cells
    assert table.min() >= (5 if n_cells >= 3000 else 1)
    mice = cells_per_mouse(n_cells, seed)
    for index in range(len(GROUPS)):
        own = [number for number, mouse in enumerate(MICE) if mouse.group == index]
        assert np.array_equal(mice[own].sum(axis=0), table[index])


def test_mice_are_nested_and_shares_are_kept(wound):
    obs = frame(wound.adata.obs)
    assert len(obs) == 4000
    assert obs.index.is_unique
    nested = obs.groupby("mouse_id", observed=True)[["condition", "timepoint"]].nunique()
    assert len(nested) == 16
    assert (nested.to_numpy() == 1).all()
    mice = obs.drop_duplicates("mouse_id").groupby(["condition", "timepoint"], observed=True).size()
    assert [mice[c, day] for c in ("Burn", "Sham") for day in DAYS] == [3, 3, 2, 3, 3, 2]
    cells = obs.groupby(["condition", "timepoint"], observed=True).size()
    shares = [cells[c, day] / 4000 for c in ("Burn", "Sham") for day in DAYS]
    plan = np.array([8904, 7393, 8558, 7573, 13797, 11073]) / 57_298
    np.testing.assert_allclose(shares, plan, atol=1 / 4000)


def test_marker_sets_are_the_published_ones(shared):
    published = json.loads((shared / "data" / "markers.json").read_text())
    for name, markers in MARKERS.items():
        assert list(markers.genes) == published[name]["genes"]
        assert markers.source


def test_markers_are_highest_in_their_own_type(wound):
    labels = frame(wound.adata.obs)[TYPE].to_numpy()
    expression = dense(wound.adata.X)
    for kind, sets in IDENTITY.items():
        genes = wound.adata.var_names.isin(genes_of(*sets))
        level = {other: expression[labels == other][:, genes].mean() for other in TYPES}
        own = level.pop(kind)
        assert own > 1.0 + max(level.values()), kind


def test_mouse_sd_sets_the_spread_between_mice():
    def spread(mouse_sd: float) -> float:
        tissue = draw_tissue(600, mouse_sd, effect_scale=0.0, seed=2)
        cells = draw_cells(500, 600, seed=2)
        one = cells.take(np.repeat(np.flatnonzero(~cells.burnt)[:1], len(MICE)))
        share = tissue.expected(replace(one, mouse_index=np.arange(len(MICE)))).share
        # In float64: the float32 mean of equal numbers is not that number.
        return float(np.log(share.astype(np.float64)).std(axis=0).mean())

    assert spread(0.0) < 1e-6
    assert spread(0.3) == pytest.approx(0.3, rel=0.1)


def test_embedding_shows_the_burn():
    config = SyntheticSettings(n_cells=3000, n_genes=600, embedding_dim=48, mouse_sd=0.0)

    def accuracy(effect_scale: float) -> float:
        """Of the nearest centroid, on fibroblasts of day 10 that did not make the centroids."""
        adata = simulate(config.model_copy(update={"effect_scale": effect_scale})).adata
        obs = frame(adata.obs)
        own = ((obs[TYPE] == "Fib") & (obs["timepoint"] == "day10")).to_numpy()
        cells = adata.obsm["X_state_baseline"][own]
        burnt = (obs["condition"] == "Burn").to_numpy()[own]
        assert cells.dtype == np.float32
        assert 0.3 < (cells < 0).mean() < 0.7
        seen = np.arange(len(cells)) % 2 == 0
        up, down = (cells[seen & which].mean(axis=0) for which in (burnt, ~burnt))
        return float((((cells - (up + down) / 2) @ (up - down) > 0) == burnt)[~seen].mean())

    assert accuracy(1.0) > 0.85
    assert accuracy(0.0) < 0.7


def test_smallest_set_holds_all_markers():
    adata = simulate(SyntheticSettings(n_cells=500, n_genes=300, embedding_dim=8)).adata
    assert adata.shape == (500, 300)
    names = list(adata.var_names)
    assert len(set(names)) == 300
    assert set(genes_of(*MARKERS)) <= set(names)
    assert names[-1].startswith("Gm")
    groups = frame(adata.obs).groupby([TYPE, "timepoint", "condition"], observed=True)
    assert groups.ngroups == 66


def test_command_writes_and_never_overwrites_unasked(tmp_path, capsys):
    output, truth = tmp_path / "cells.h5ad", tmp_path / "truth.h5ad"
    size = ["--n-cells", "500", "--n-genes", "300", "--embedding-dim", "8", "--seed"]
    assert main(["--output", str(output), "--truth", str(truth), *size, "7"]) == 0
    expected = simulate(SyntheticSettings(n_cells=500, n_genes=300, embedding_dim=8, seed=7))
    read = ad.read_h5ad(output)
    assert np.array_equal(dense(read.X), dense(expected.adata.X))
    assert read.uns["wound_jax_synthetic"]["seed"] == 7
    assert "Simulated" in read.uns["wound_jax_synthetic"]["note"]
    stored = ad.read_h5ad(truth).uns["burn_log_delta"]["values"]
    assert np.array_equal(stored, expected.truth.log_delta)
    before = output.read_bytes()
    assert main(["--output", str(output), *size, "8"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert output.read_bytes() == before
    assert main(["--output", str(output), "--overwrite", *size, "8"]) == 0
    assert ad.read_h5ad(output).uns["wound_jax_synthetic"]["seed"] == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.h5ad", "truth.h5ad"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "cells.csv"], "does not end in .h5ad"),
        (["--output", "nowhere/cells.h5ad"], "no folder nowhere"),
        (["--output", "a.h5ad", "--truth", "./a.h5ad"], "name one file"),
        (["--output", "a.h5ad", "--n-cells", "5"], "--n-cells 5: Input should be"),
    ],
)
def test_command_says_what_is_wrong(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
