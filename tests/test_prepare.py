import dataclasses
import json
from typing import Any

import anndata as ad
import jax
import numpy as np
import pytest
import scipy.sparse as sp
from tiny import COLUMNS, dense, tiny_adata, tiny_config, tiny_labels, write

from wound_jax.data.prepare import PreparedData, prepare, resplit
from wound_jax.data.settings import RandomSplit
from wound_jax.data.source import layer_names, matrix, open_source, read_parts
from wound_jax.data.spec import DataSpec
from wound_jax.data.velocity.contract import VelocityData
from wound_jax.errors import UserError
from wound_jax.models.settings import ScalarSettings
from wound_jax.training.batch import gather

pytestmark = pytest.mark.quick

TINY: Any = tiny_adata()
COUNTS: dict[str, Any] = {"input": "layers/counts", "preprocess": "log1p_cp10k"}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(TINY, tmp_path_factory.mktemp("cells"))


def changed(**parts) -> ad.AnnData:
    """A copy of the tiny cells with other matrices or labels."""
    adata = TINY.copy()
    for name, value in parts.items():
        setattr(adata, name, value)
    return adata


def prepared(adata: ad.AnnData, folder, **config) -> PreparedData:
    return prepare(tiny_config(write(adata, folder), **config))


@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_matrix, dense])
def test_a_gene_matrix_is_read_whatever_its_storage(form, tmp_path):
    data = prepared(changed(X=form(TINY.X)), tmp_path)
    np.testing.assert_array_equal(data.cells.features[:], dense(TINY.X).astype(np.float32))
    assert data.cells.features[:].dtype == np.float32
    assert data.cells.genes is None
    assert data.cells.expression is data.cells.features
    assert data.spec.genes == tuple(TINY.var_names)
    assert (data.spec.gene_input, data.spec.input_width) == (True, TINY.n_vars)
    assert list(data.cells.annotations.names) == list(TINY.obs_names)


def test_a_layer_of_counts_becomes_the_log_values(path):
    data = prepare(tiny_config(path, **COUNTS))
    np.testing.assert_allclose(data.cells.features[:], dense(TINY.X), rtol=1e-6)
    assert data.spec.preprocessing.kind == "log1p_cp10k"


def test_an_embedding_is_read_alone(path):
    data = prepare(tiny_config(path, input="obsm/emb"))
    np.testing.assert_array_equal(data.cells.features, TINY.obsm["emb"])
    assert data.cells.genes is None
    assert data.spec.genes == ()
    assert (data.spec.gene_input, data.spec.input_width) == (False, 6)
    assert not data.spec.non_negative


def test_a_decoder_needs_the_genes_beside_the_embedding(path):
    config = {**COUNTS, "input": "obsm/emb", "genes": "layers/counts"}
    data = prepare(tiny_config(path, decoder=True, n_hvg=15, **config))
    assert data.cells.genes is not None
    assert len(data.spec.genes) == 15
    kept = [TINY.var_names.get_loc(gene) for gene in data.spec.genes]
    np.testing.assert_array_equal(data.cells.features, TINY.obsm["emb"])
    np.testing.assert_allclose(data.cells.genes, dense(TINY.X)[:, kept], rtol=1e-6)
    assert data.cells.expression is data.cells.genes


def test_only_the_matrices_that_are_needed_are_read(path):
    config = tiny_config(path).data
    read = open_source(config, {"obsm/emb"})
    assert read.X is None
    assert (layer_names(read), list(read.obsm)) == ([], ["emb"])
    synthetic = {"n_cells": 500, "n_genes": 300, "embedding_dim": 8}
    config = tiny_config(None, source="synthetic", synthetic=synthetic).data
    read = open_source(config, {"layers/counts"})
    assert read.X is None
    assert (layer_names(read), list(read.obsm)) == (["counts"], [])
    assert sp.issparse(read.layers["counts"])


@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_matrix, sp.csr_array, dense])
def test_a_matrix_is_rows_of_a_sparse_matrix_or_an_array(form):
    for key, adata in (("X", changed(X=form(TINY.X))), ("layers/X", TINY.copy())):
        adata.layers["X"] = form(TINY.X)
        found = matrix(adata, key)
        assert type(found) is (np.ndarray if form is dense else sp.csr_matrix)
        np.testing.assert_array_equal(dense(found), dense(TINY.X))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"input": "layers/count"}, r"layers key 'count'.*mean 'counts'"),
        ({"input": "obsm/X_emb"}, r"obsm key 'X_emb'.*Known: emb"),
        ({"input": "X"}, "the AnnData has no X"),
        ({"input": "layers/counts"}, r"holds integer counts.*log1p_cp10k"),
        ({"pert_col": "condition"}, r"data\.pert_col 'condition'.*Known: day, mouse"),
        ({"exclude": {"day": ["d9"]}}, r"'d9'.*Known: d1, d2"),
        (
            {**COUNTS, "match_on": ["replicate"]},
            r"agrees on \(replicate\) with: burn / B cell / d1",
        ),
    ],
)
def test_what_does_not_fit_the_file_is_an_error(config, message, tmp_path):
    adata = TINY.copy()
    adata.X = None
    with pytest.raises(UserError, match=message):
        prepared(adata, tmp_path, **config)


def test_a_file_that_is_none_is_an_error(path, tmp_path):
    with pytest.raises(UserError, match=r"no file at .*other\.h5ad.*tiny\.h5ad"):
        read_parts(path.parent / "other.h5ad", {"X"})
    (tmp_path / "text.h5ad").write_text("no cells")
    with pytest.raises(UserError, match="not an h5ad"):
        read_parts(tmp_path / "text.h5ad", {"X"})


def test_an_embedding_that_is_not_finite_is_an_error(tmp_path):
    adata = TINY.copy()
    adata.obsm["emb"][3, 2] = np.nan
    with pytest.raises(UserError, match="obsm/emb holds NaN"):
        prepared(adata, tmp_path, input="obsm/emb")


def test_excluded_cells_are_gone(path):
    data = prepare(tiny_config(path, exclude={"day": ["d2"], "mouse": ["sham_d1_m0"]}, **COUNTS))
    kept = ~((TINY.obs["day"] == "d2") | (TINY.obs["mouse"] == "sham_d1_m0")).to_numpy()
    assert list(data.cells.annotations.names) == list(TINY.obs_names[kept])
    np.testing.assert_allclose(data.cells.features[:], dense(TINY.X)[kept], rtol=1e-6)


def test_the_output_space_holds_negative_values_only_if_training_cells_do(tmp_path):
    data = prepared(TINY, tmp_path)
    assert data.spec.non_negative
    for part in ("test", "train"):
        values = dense(TINY.X)
        values[data.split.treated[part][0], 0] = -0.5
        assert prepared(changed(X=values), tmp_path, scale="trust").spec.non_negative == (
            part == "test"
        )


def test_the_fingerprint_is_of_the_data_and_not_of_their_storage(path, tmp_path):
    expected = prepare(tiny_config(path)).fingerprint
    unsorted = sp.csr_matrix(TINY.X)
    for i in range(TINY.n_obs):
        row = slice(*unsorted.indptr[i : i + 2])
        unsorted.indices[row] = unsorted.indices[row][::-1]
        unsorted.data[row] = unsorted.data[row][::-1]
    unsorted.has_sorted_indices = False
    forms = [dense(TINY.X), sp.csc_matrix(TINY.X), dense(TINY.X).astype(np.float32), unsorted]
    for form in forms:
        assert prepared(changed(X=form), tmp_path).fingerprint == expected


def test_the_fingerprint_changes_with_values_labels_genes_and_order(tmp_path):
    values = dense(TINY.X).copy()
    values[7, 7] += 0.1
    obs = TINY.obs.copy()
    obs.iloc[0, obs.columns.get_loc("mouse")] = obs["mouse"].iloc[1]
    renamed = TINY.copy()
    renamed.var_names = ["gene0a", *TINY.var_names[1:]]
    others = [TINY, changed(X=values), changed(obs=obs), renamed, TINY[::-1].copy()]
    found = [prepared(adata, tmp_path, split={"kind": "random"}) for adata in others]
    assert len({data.fingerprint for data in found}) == len(others)


def test_vocabularies_are_of_what_training_shows(path):
    config = tiny_config(path, split={"kind": "timepoint", "test": ["d2"]})
    spec = prepare(config).spec
    assert spec.perturbations.names == ("burn", "sham")
    assert spec.cell_types.names == ("B cell", "T cell")
    # The control cells of d2 are shared, and still no training set shows them.
    assert spec.timepoints.names == ("d1",)
    assert spec.replicates.names == ("sham_d1_m0", "sham_d1_m1", "sham_d1_m2")
    data = config.data.model_copy(update={"control_fraction": 0.2})
    spec = prepare(config.model_copy(update={"data": data})).spec
    assert spec.timepoints.names == ("d1", "d2")
    assert len(spec.replicates) == 6


def test_a_spec_survives_json(path):
    spec = prepare(tiny_config(path, n_hvg=9, **COUNTS)).spec
    assert DataSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_held_out_cells_teach_a_spec_nothing(tmp_path):
    """Variable genes and the scale of scalar features are those of the training cells."""
    rng = np.random.default_rng(0)
    scored = changed(obs=TINY.obs.assign(age=rng.normal(30.0, 5.0, TINY.n_obs)))
    config = tiny_config(write(scored, tmp_path), n_hvg=9, **COUNTS)
    scalars = ScalarSettings(enable=True, columns=("age",))
    config = config.model_copy(
        update={"model": config.model.model_copy(update={"scalars": scalars})}
    )
    data = prepare(config)
    trained = data.split.training_cells
    (column,) = data.spec.scalars
    age = scored.obs["age"].to_numpy()[trained]
    np.testing.assert_allclose([column.mean, column.sd], [age.mean(), age.std()])
    assert data.cells.scalars is not None
    np.testing.assert_allclose(data.cells.scalars[trained].mean(), 0.0, atol=1e-6)
    held_out = np.setdiff1d(np.arange(TINY.n_obs), trained)
    assert len(held_out) > 10
    counts, age = dense(scored.layers["counts"]), scored.obs["age"].to_numpy().copy()
    counts[held_out], age[held_out] = counts[held_out][:, ::-1], 99.0
    scored.layers["counts"], scored.obs["age"] = sp.csr_matrix(counts), age
    write(scored, tmp_path)
    assert prepare(config).spec == data.spec


def test_a_condition_that_training_never_shows_is_an_error(tmp_path):
    obs = TINY.obs.assign(treatment=TINY.obs["treatment"].astype(str))
    obs.loc[obs["mouse"] == "burn_d1_m0", "treatment"] = "scald"
    config = {"kind": "replicate", "test": ["burn_d1_m0", "sham_d1_m0"]}
    with pytest.raises(UserError, match=r"holds out every cell of condition scald.*data\.exclude"):
        prepared(changed(obs=obs), tmp_path, split=config)


def test_training_groups_need_controls_and_held_out_ones_are_set_apart(tmp_path):
    labels = tiny_labels(TINY)
    test = ["burn_d1_m0", "burn_d2_m0", "sham_d1_m0"]
    data = prepared(TINY, tmp_path, split={"kind": "replicate", "test": test})
    groups, orphans = data.groups("test")
    assert [str(group) for group in groups] == ["burn / B cell / d1", "burn / T cell / d1"]
    assert [str(group) for group in orphans] == ["burn / B cell / d2", "burn / T cell / d2"]
    no_control = TINY[~((labels.condition == "sham") & (labels.timepoint == "d2"))].copy()
    with pytest.raises(UserError, match=r"no control cell agrees.*burn / B cell / d2"):
        prepared(no_control, tmp_path, split={"kind": "random"})
    prepared(no_control, tmp_path, split={"kind": "random"}, match_on=["cell_type"])


def test_plan_builders_take_the_cells_of_their_part(path):
    config = tiny_config(path, control_fraction=0.3, split={"kind": "random"})
    data = prepare(config)
    for part in ("train", "val", "test"):
        plan = data.plan_builder(part, config.data, seed=0).epoch(0)
        treated = plan.perturbation == data.spec.perturbations.encode(np.array(["burn"]))[0]
        assert sorted(plan.target[treated][plan.target_mask[treated]]) == list(
            data.split.treated[part]
        )
        assert set(plan.control[plan.control_mask]) <= set(data.split.controls[part])
        # What is held out is scored on treated cells alone.
        assert treated.all() == (part != "train")
        days = data.spec.timepoints.encode(data.cells.annotations.timepoint)
        assert (days[plan.target[:, 0]] == plan.timepoint).all()
    assert data.plan_builder("train", config.data, seed=0).resample is False


def test_another_split_of_the_same_cells(path):
    data = prepare(tiny_config(path))
    other = resplit(data, RandomSplit(test_fraction=0.5))
    assert other.cells is data.cells
    assert other.spec is data.spec
    overlap = set(data.split.treated["train"]) & set(other.split.treated["test"])
    assert data.trained_on(other, "test") == len(overlap) > 0
    assert data.trained_on(data, "test") == 0


def test_a_model_s_spec_is_applied_and_not_fitted_again(path):
    first = prepare(tiny_config(path, n_hvg=9, **COUNTS))
    again = prepare(tiny_config(path, n_hvg=9, split={"kind": "random"}, **COUNTS), first.spec)
    assert again.spec is first.spec
    assert np.array_equal(again.cells.features[:], first.cells.features[:])


@pytest.mark.parametrize("decoder", [False, True])
def test_a_batch_is_the_same_from_the_device_and_from_the_host(decoder, path):
    config = tiny_config(path, input="obsm/emb", decoder=decoder)
    data = prepare(config)
    plan = data.plan_builder("train", config.data, seed=0).epoch(0).batches(5)[-1]
    on_host = gather(data.cells, plan)
    placed = jax.device_put(data.cells)
    assert placed.annotations is data.cells.annotations
    on_device = jax.jit(gather)(placed, jax.device_put(plan))
    assert jax.tree.structure(on_host) == jax.tree.structure(on_device)
    for a, b in zip(jax.tree.leaves(on_host), jax.tree.leaves(on_device), strict=True):
        assert np.array_equal(a, b)
        assert np.asarray(a).dtype == b.dtype
    np.testing.assert_array_equal(on_host.inputs.control, data.cells.features[plan.control])
    np.testing.assert_array_equal(on_host.target, data.cells.features[plan.target])
    assert (on_host.target_genes is not None) == decoder
    if decoder:
        np.testing.assert_array_equal(on_host.target_genes, dense(TINY.X)[plan.target])
    seen = np.isin(data.cells.annotations.replicate, data.spec.replicates.names)
    assert ((on_host.inputs.replicate >= 0) == seen[plan.control]).all()


@pytest.mark.parametrize("whose", ["control", "target"])
def test_a_batch_takes_scalars_of_controls_and_velocities_of_whom_the_source_names(whose, path):
    data = prepare(tiny_config(path))
    n, width = data.cells.features.shape
    own = np.arange(n, dtype=np.float32)
    velocity = VelocityData(
        velocity=np.tile(own[:, None], width),
        known=np.ones(n, bool),
        confidence=own / n,
        dims=np.arange(width) % 2 == 0,
        source="made",
    )
    cells = dataclasses.replace(
        data.cells, velocity=velocity, velocity_of=whose, scalars=np.stack([own, -own], axis=1)
    )
    builder = data.plan_builder("train", tiny_config(path).data, seed=0)
    plan = builder.epoch(0).batches(5)[-1]
    batch, members = gather(cells, plan), getattr(plan, whose)
    assert not np.array_equal(plan.control, plan.target)
    assert batch.velocity is not None
    assert batch.inputs.scalars is not None
    np.testing.assert_array_equal(batch.velocity.velocity, np.tile(members[..., None], width))
    np.testing.assert_array_equal(batch.velocity.confidence, velocity.confidence[members])
    np.testing.assert_array_equal(batch.velocity.dims, np.tile(velocity.dims, (5, 1)))
    np.testing.assert_array_equal(batch.inputs.scalars[..., 1], -plan.control.astype(np.float32))
    for name in ("perturbation", "timepoint", "time"):
        np.testing.assert_array_equal(getattr(batch.inputs, name), getattr(plan, name))
    np.testing.assert_array_equal(batch.inputs.replicate, data.cells.replicate[plan.control])
    np.testing.assert_array_equal(batch.inputs.mask, plan.control_mask)
    np.testing.assert_array_equal(batch.target_mask, plan.target_mask)


def test_the_labels_of_the_tiny_cells_are_read_by_the_config(path):
    data = prepare(tiny_config(path))
    labels = tiny_labels(TINY)
    for field in dataclasses.fields(labels):
        found = getattr(data.cells.annotations, field.name)
        assert list(found) == list(getattr(labels, field.name))
    assert COLUMNS["control"] == data.spec.control
