"""Prediction from disk to disk: the same file as from memory, and none where it goes wrong."""

from concurrent.futures import Future
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import shrunk_runs
from tiny import dense

from wound_jax.config.schema import RunConfig
from wound_jax.data import source
from wound_jax.data.annotations import Annotations, read_annotations
from wound_jax.data.cells import Cells
from wound_jax.data.groups import Group
from wound_jax.data.settings import FileData
from wound_jax.data.store.convert import convert
from wound_jax.errors import UserError
from wound_jax.models.set_transformer import SetInputs
from wound_jax.prediction import blocks as model_rows
from wound_jax.prediction import files as prediction
from wound_jax.prediction.loaded_run import LoadedRun

NOBODY = np.zeros(0, dtype=int)
SET_COLUMNS = ["cell_types_simple_short", "timepoint"]


@pytest.fixture(autouse=True)
def in_folder(monkeypatch):
    monkeypatch.chdir(shrunk_runs.folder())


def loaded(name: str = "tiny", **data) -> LoadedRun:
    """A trained run whose config has other settings of the data."""
    run = shrunk_runs.loaded(name)
    config = run.config.model_copy(update={"data": run.config.data.model_copy(update=data)})
    return replace(run, config=config)


def predicted(run: LoadedRun, path: Path, output: Path, **options) -> ad.AnnData:
    options = {"with_controls": False, "missing": "error", **options}
    prediction.predict_file(run, str(path), output, "Burn", **options)
    return ad.read_h5ad(output)


def written(folder: Path, n: int = 240) -> Path:
    shrunk_runs.cells(n).write_h5ad(folder / "in.h5ad")
    return folder / "in.h5ad"


def tables_on_disk(monkeypatch) -> None:
    """Every table goes to disk, and the file is read in many blocks."""
    monkeypatch.setattr(model_rows, "IN_MEMORY", 0)
    monkeypatch.setattr(source, "_BLOCK_VALUES", 1)


@pytest.mark.parametrize("name", ["tiny", "tiny-2"])
@pytest.mark.parametrize("with_controls", [False, True])
def test_from_disk_to_disk_as_in_memory(name, with_controls, tmp_path, monkeypatch):
    path, run = written(tmp_path), loaded(name)
    expected = predicted(run, path, tmp_path / "a.h5ad", with_controls=with_controls)
    tables_on_disk(monkeypatch)
    found = predicted(run, path, tmp_path / "b.h5ad", with_controls=with_controls)
    assert type(found.X) is type(expected.X)
    np.testing.assert_array_equal(dense(found.X), dense(expected.X))
    assert expected.obs.equals(found.obs)
    assert list(found.var_names) == list(expected.var_names)
    assert dict(found.uns["wound_jax"]) == dict(expected.uns["wound_jax"])
    assert {p.name for p in tmp_path.iterdir()} == {"in.h5ad", "a.h5ad", "b.h5ad"}


def test_the_predictions_are_those_of_the_model_on_all_cells_at_once(tmp_path, monkeypatch):
    """Truth from the predictor itself: one group a type and timepoint, on the matrix as it is."""
    run, cells = loaded(), shrunk_runs.cells()
    tables_on_disk(monkeypatch)
    found = predicted(run, written(tmp_path), tmp_path / "out.h5ad")
    controls = cells[cells.obs["condition"] == "Sham"]
    features, labels = dense(controls.X).astype(np.float32), pd.DataFrame(controls.obs)
    replicates = run.spec.replicates.encode(labels["mouse_id"].astype(str).to_numpy())
    given = Cells(read_annotations(labels, run.config.data), features, replicates)
    of_set = labels.groupby(SET_COLUMNS, observed=True)
    for places in of_set.indices.values():
        cell_type, timepoint = labels[SET_COLUMNS].iloc[places[0]].astype(str)
        group = Group(cell_type, timepoint, "Burn", NOBODY, places)
        (expected,) = run.predictor.predict(given, [group])
        np.testing.assert_allclose(dense(found.X)[places], expected, atol=1e-6)


def test_a_set_is_told_its_condition_its_timepoint_and_its_time(tmp_path):
    """Also a timepoint that training never saw: its code is -1, its number is its own."""
    run, cells = loaded(), shrunk_runs.cells(120)
    days = cells.obs["timepoint"].astype(str).to_numpy().copy()
    days[days == days[0]] = "day12.5"
    cells.obs["timepoint"] = days
    cells.write_h5ad(tmp_path / "in.h5ad")
    predictor: Any = copy(run.predictor)

    def told(_, inputs: SetInputs) -> np.ndarray:
        out = np.zeros(inputs.control.shape, np.float32)
        out[..., 0] = inputs.perturbation[:, None]
        out[..., 1] = inputs.timepoint[:, None]
        out[..., 2] = np.asarray(inputs.time)[:, None]
        out[..., 3] = inputs.replicate
        out[..., 4:] = inputs.control[..., 4:]
        return out

    predictor._run, opened = told, Future()
    opened.set_result(predictor)
    found = predicted(replace(run, opened=opened), tmp_path / "in.h5ad", tmp_path / "out.h5ad")
    values, spec, labels = dense(found.X), run.spec, pd.DataFrame(found.obs).astype(str)
    assert set(values[:, 0]) == {spec.perturbations.names.index("Burn")}
    names = labels["timepoint"].to_numpy()
    assert "day12.5" in names
    np.testing.assert_array_equal(values[:, 1], spec.timepoints.encode(names))
    np.testing.assert_array_equal(values[:, 2], [float(name.removeprefix("day")) for name in names])
    np.testing.assert_array_equal(
        values[:, 3], spec.replicates.encode(labels["mouse_id"].to_numpy())
    )
    controls = cells[list(found.obs_names)]
    np.testing.assert_allclose(values[:, 4:], dense(controls.X)[:, 4:], rtol=1e-6)


def test_batches_are_few_and_of_one_shape(tmp_path):
    """Sets of all groups share batches; one shape is compiled whatever their number."""
    run = shrunk_runs.loaded("tiny")
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, run.spec.input_width)).astype(np.float32)
    labels = Annotations(*[np.full(300, "", object)] * 5)
    cells = Cells(labels, features, np.zeros(300, np.int32))
    parts = np.array_split(np.arange(300), 41)
    groups = [Group("", "", "Burn", NOBODY, part) for part in parts]
    predictor: Any = run.predictor
    compiled = predictor._run
    before = compiled._cache_size()
    found = list(predictor.stream(cells, groups))
    assert [owner for owner, _, _ in found] == list(range(41))
    assert compiled._cache_size() - before <= 1


@pytest.mark.parametrize("form", [dense, sp.csc_matrix])
def test_the_storage_of_the_file_makes_no_difference(form, tmp_path):
    run, cells = loaded(), shrunk_runs.cells()
    expected = predicted(run, written(tmp_path), tmp_path / "a.h5ad")
    cells.X = form(cells.X)
    cells.write_h5ad(tmp_path / "in.h5ad")
    found = predicted(run, tmp_path / "in.h5ad", tmp_path / "b.h5ad")
    np.testing.assert_array_equal(dense(found.X), dense(expected.X))


def test_a_training_store_is_predicted_where_it_is(tmp_path):
    path, run = written(tmp_path, 1200), loaded()
    expected = predicted(run, path, tmp_path / "a.h5ad", with_controls=True)
    shared = run.config.data.model_dump(exclude={"source", "synthetic"})
    of_file = FileData(**shared, path=str(path))
    config: RunConfig = run.config.model_copy(update={"data": of_file})
    convert(config, tmp_path / "store.h5ad", progress=False)
    found = predicted(run, tmp_path / "store.h5ad", tmp_path / "b.h5ad", with_controls=True)
    np.testing.assert_array_equal(dense(found.X), dense(expected.X))
    with pytest.raises(UserError, match=r"store of 300 genes .* reads 16 columns of obsm/"):
        predicted(loaded("tiny-2"), tmp_path / "store.h5ad", tmp_path / "c.h5ad")


def test_cells_left_out_of_training_are_left_out_here(tmp_path, capsys):
    path, cells = written(tmp_path), shrunk_runs.cells()
    everyone = predicted(loaded(), path, tmp_path / "a.h5ad")
    assert "left out" not in capsys.readouterr().err
    gone = cells.obs["mouse_id"].iloc[np.flatnonzero(cells.obs["condition"] == "Sham")[0]]
    run = loaded(exclude={"mouse_id": (gone, "a mouse of another file"), "no_column": ("x",)})
    found = predicted(run, path, tmp_path / "b.h5ad")
    lost = (cells.obs["mouse_id"] == gone).sum()
    assert f"warning: {lost} of 240 cells are left out, as in training" in capsys.readouterr().err
    kept = everyone.obs["mouse_id"] != gone
    assert list(found.obs_names) == list(everyone.obs_names[kept])
    assert 0 < found.n_obs < everyone.n_obs


def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
    path, output = written(tmp_path), tmp_path / "out.h5ad"
    output.write_text("precious")
    tables_on_disk(monkeypatch)
    monkeypatch.setattr(prediction, "write_csr", lambda *_: 1 / 0)
    monkeypatch.setattr(prediction, "write_dense", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        predicted(loaded(), path, output)
    assert output.read_text() == "precious"
    assert {p.name for p in tmp_path.iterdir()} == {"in.h5ad", "out.h5ad"}


def test_counts_are_told_from_log_values_over_all_blocks(tmp_path, monkeypatch):
    cells = shrunk_runs.cells()
    cells.X = np.rint(np.expm1(dense(cells.X)))
    cells.write_h5ad(tmp_path / "in.h5ad")
    tables_on_disk(monkeypatch)
    with pytest.raises(UserError, match="holds integer counts"):
        predicted(loaded(), tmp_path / "in.h5ad", tmp_path / "out.h5ad")


def test_a_disk_without_room_is_told_of_before_the_work(tmp_path, monkeypatch):
    path = written(tmp_path)
    tables_on_disk(monkeypatch)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(model_rows.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"GB are needed in .* and 0\.0 GB are free"):
        predicted(loaded(), path, tmp_path / "out.h5ad")
