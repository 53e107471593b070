"""`predict` and `evaluate --input`: other files meet a trained model by the names they carry."""

import json
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import shrunk_runs

from wound_jax import evaluate, predict
from wound_jax.errors import UserError
from wound_jax.prediction import files as prediction

TYPE = "cell_types_simple_short"


@pytest.fixture(autouse=True)
def in_folder(monkeypatch):
    monkeypatch.chdir(shrunk_runs.folder())


def written(adata: ad.AnnData, path: Path) -> str:
    adata.write_h5ad(path)
    return str(path)


def predicted(
    tmp_path: Path, adata: ad.AnnData, run: str = "tiny", perturbation: str = "Burn", **options
) -> ad.AnnData:
    """The prediction for the cells of a file, without the command around it."""
    options = {"with_controls": False, "missing": "error", **options}
    path, output = written(adata, tmp_path / "input.h5ad"), tmp_path / "predicted.h5ad"
    loaded = shrunk_runs.loaded(run)
    shape = prediction.predict_file(loaded, path, output, perturbation, **options)
    found = ad.read_h5ad(output)
    assert found.shape == shape
    return found


def dense(x) -> np.ndarray:
    return x.toarray() if sp.issparse(x) else np.asarray(x)


def frame(table) -> pd.DataFrame:
    assert isinstance(table, pd.DataFrame)
    return table


def controls_of(adata: ad.AnnData) -> ad.AnnData:
    return adata[adata.obs["condition"] == "Sham"]


def command(tmp_path: Path, *more: str, run: str = "runs/tiny", perturbation: str = "Burn") -> int:
    where = ["--input", str(tmp_path / "in.h5ad"), "--output", str(tmp_path / "out.h5ad")]
    return predict.main([run, *where, "--perturbation", perturbation, *more])


def test_one_cell_for_each_control_cell_with_its_name_and_columns(tmp_path, capsys):
    cells = shrunk_runs.cells()
    controls = controls_of(cells)
    written(cells, tmp_path / "in.h5ad")
    assert command(tmp_path) == 0
    assert f"{controls.n_obs} cells x 300 genes in " in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"in.h5ad", "out.h5ad"}
    out = ad.read_h5ad(tmp_path / "out.h5ad")
    assert list(out.obs_names) == list(controls.obs_names)
    assert tuple(out.var_names) == shrunk_runs.loaded("tiny").spec.genes
    seen = ["seen_cell_type", "seen_timepoint", "seen_replicate"]
    assert list(out.obs.columns) == [*controls.obs.columns, *seen]
    assert set(out.obs["condition"]) == {"Burn"}
    for column in set(controls.obs.columns) - {"condition"}:
        assert list(out.obs[column]) == list(controls.obs[column])
    x, before = dense(out.X), dense(controls.X)
    assert x.dtype == np.float32
    assert np.isfinite(x).all()
    assert x.min() == 0.0
    # Each cell is a shift of its own control cell: near it and not it.
    assert 0 < np.abs(x - before).mean() < np.abs(x - np.roll(before, 1, axis=0)).mean()
    notes = dict(out.uns["wound_jax"])
    assert list(notes.pop("steps")) == list(shrunk_runs.loaded("tiny").steps)
    assert notes == {
        "model": "wound_jax set transformer, llama",
        "run": "tiny",
        "perturbation": "Burn",
        "scale": "log-normalised as in the training file",
        "with_controls": False,
    }


def test_the_flags_say_what_training_saw(tmp_path, capsys):
    cells = shrunk_runs.cells()
    spec = shrunk_runs.loaded("tiny").spec
    out = predicted(tmp_path, cells)
    assert list(out.obs["seen_cell_type"]) == [t in spec.cell_types for t in out.obs[TYPE]]
    assert list(out.obs["seen_replicate"]) == [m in spec.replicates for m in out.obs["mouse_id"]]
    assert set(out.obs["seen_timepoint"]) == {True}
    capsys.readouterr()
    cells.obs[TYPE] = cells.obs[TYPE].astype(str).replace("Fib", "Glia")
    renamed = predicted(tmp_path, cells)
    obs = frame(renamed.obs)
    assert set(obs.loc[obs[TYPE] == "Glia", "seen_cell_type"]) == {False}
    warning = capsys.readouterr().err
    assert "warning: no treated cell of cell_type" in warning
    assert "Glia" in warning
    # The type is no input of the model: it decides who shares a set, and the names stay apart.
    np.testing.assert_array_equal(dense(renamed.X), dense(out.X))


def test_genes_are_found_by_name(tmp_path):
    cells = shrunk_runs.cells()
    expected = predicted(tmp_path, cells)
    order = np.random.default_rng(1).permutation(cells.n_vars)
    out = predicted(tmp_path, cells[:, order].copy())
    assert list(out.var_names) == list(expected.var_names)
    np.testing.assert_array_equal(dense(out.X), dense(expected.X))
    # A gene that the model does not know changes nothing.
    foreign = ad.AnnData(
        np.ones((cells.n_obs, 1), np.float32), obs=pd.DataFrame(index=cells.obs_names)
    )
    foreign.var_names = ["Foreign"]
    more = ad.concat([foreign, cells], axis=1, merge="first")
    more.obs = cells.obs
    np.testing.assert_array_equal(dense(predicted(tmp_path, more).X), dense(expected.X))


def test_missing_genes_are_refused_or_filled_and_named(tmp_path, capsys):
    cells = shrunk_runs.cells()
    lost = list(cells.var_names[[3, 8]])
    part = cells[:, ~cells.var_names.isin(lost)].copy()
    with pytest.raises(UserError, match=rf"missing from the data \({', '.join(lost)}\).*zero"):
        predicted(tmp_path, part)
    out = predicted(tmp_path, part, missing="zero")
    warning = capsys.readouterr().err
    assert "warning: 2 of 300 genes are missing and taken as zero" in warning
    assert all(gene in warning for gene in lost)
    whole = cells.copy()
    whole.X = dense(cells.X)
    whole.X[:, [3, 8]] = 0.0
    np.testing.assert_allclose(dense(out.X), dense(predicted(tmp_path, whole).X), atol=1e-6)


def test_with_controls_both_arms_are_in_one_file(tmp_path):
    cells = shrunk_runs.cells()
    controls, expected = controls_of(cells), predicted(tmp_path, cells)
    written(predicted(tmp_path, cells, with_controls=True), tmp_path / "both.h5ad")
    out = ad.read_h5ad(tmp_path / "both.h5ad")
    n = controls.n_obs
    assert list(out.obs_names) == [
        *controls.obs_names, *(f"{name}-control" for name in controls.obs_names)
    ]  # fmt: skip
    assert list(out.obs["condition"]) == ["Burn"] * n + ["Sham"] * n
    np.testing.assert_array_equal(dense(out.X)[:n], dense(expected.X))
    np.testing.assert_array_equal(dense(out.X)[n:], dense(controls.X))
    assert list(out.obs["mouse_id"][n:]) == list(controls.obs["mouse_id"])


def test_columns_stay_as_they_were_written_and_the_condition_is_that_of_training(tmp_path, capsys):
    cells = shrunk_runs.cells()
    expected = predicted(tmp_path, cells, with_controls=True)
    for column in ("condition", "cell_types_simple_short"):
        labels = frame(cells.obs)[column].astype(object)
        labels.iloc[::3] = labels.iloc[::3] + " "
        cells.obs[column] = labels
    found = predicted(tmp_path, cells, with_controls=True)
    assert "obs['condition'] (data.pert_col): " in capsys.readouterr().err
    np.testing.assert_array_equal(dense(found.X), dense(expected.X))
    assert list(found.obs["condition"]) == list(expected.obs["condition"])
    written_as = frame(cells.obs)["cell_types_simple_short"]
    names = [name.removesuffix("-control") for name in found.obs_names]
    assert list(found.obs["cell_types_simple_short"]) == list(written_as[names])
    assert list(found.obs["seen_cell_type"]) == list(expected.obs["seen_cell_type"])


def test_a_type_that_is_spelt_otherwise_than_in_training_is_refused(tmp_path):
    cells = shrunk_runs.cells()
    types = frame(cells.obs)["cell_types_simple_short"].astype(str)
    known = shrunk_runs.loaded("tiny").spec.cell_types.names[0]
    cells.obs["cell_types_simple_short"] = types.replace(known, known.swapcase()).astype(object)
    with pytest.raises(UserError, match=f"'{known.swapcase()}'.*trained on '{known}'"):
        predicted(tmp_path, cells)


def test_an_embedding_run_predicts_genes_through_its_decoder(tmp_path):
    cells = shrunk_runs.cells()
    out = predicted(tmp_path, cells, "tiny-2")
    assert list(out.var_names) == list(cells.var_names)
    assert dense(out.X).min() >= 0.0
    # The embedding is all it reads; the expression is wanted for real controls alone.
    bare = cells.copy()
    bare.X = None
    np.testing.assert_array_equal(dense(predicted(tmp_path, bare, "tiny-2").X), dense(out.X))
    both = predicted(tmp_path, cells, "tiny-2", with_controls=True)
    np.testing.assert_array_equal(dense(both.X)[out.n_obs :], dense(controls_of(cells).X))
    cells.obsm["X_state_baseline"] = cells.obsm["X_state_baseline"][:, :8]
    with pytest.raises(UserError, match="has 8 dimensions, but the model was trained on 16"):
        predicted(tmp_path, cells, "tiny-2")


def test_a_file_without_control_cells_is_refused(tmp_path):
    cells = shrunk_runs.cells()
    treated = cells[cells.obs["condition"] == "Burn"].copy()
    with pytest.raises(
        UserError, match=r"holds no 'Sham' cell in obs\['condition'\] \(present: Bu"
    ):
        predicted(tmp_path, treated)


@pytest.mark.parametrize(
    ("perturbation", "message"),
    [("Burnt", "unknown perturbation 'Burnt'. Did you mean 'Burn'?"), ("", "Known: Burn, Sham.")],
)
def test_an_unknown_perturbation_names_the_nearest(tmp_path, capsys, perturbation, message):
    assert command(tmp_path, perturbation=perturbation) == 2
    assert message in capsys.readouterr().err


def test_the_control_as_perturbation_is_warned_of(tmp_path, capsys):
    written(shrunk_runs.cells(60), tmp_path / "in.h5ad")
    assert command(tmp_path, perturbation="Sham") == 0
    assert "the model never learned to predict it" in capsys.readouterr().err


def test_an_existing_output_is_kept(tmp_path, capsys):
    (tmp_path / "out.h5ad").write_text("precious")
    assert command(tmp_path) == 2
    assert "exists; choose another --output, or give --overwrite" in capsys.readouterr().err
    written(shrunk_runs.cells(60), tmp_path / "in.h5ad")
    assert command(tmp_path, "--overwrite", "--checkpoint", "last") == 0
    assert ad.read_h5ad(tmp_path / "out.h5ad").uns["wound_jax"]["steps"] == [6]


def test_the_input_is_never_written_over(tmp_path, capsys):
    path = written(shrunk_runs.cells(60), tmp_path / "in.h5ad")
    before = Path(path).read_bytes()
    where = ["--input", path, "--output", path, "--perturbation", "Burn", "--overwrite"]
    assert predict.main(["runs/tiny", *where]) == 2
    assert "--input and --output are both" in capsys.readouterr().err
    assert Path(path).read_bytes() == before


def test_what_is_not_there_is_named(tmp_path, capsys):
    assert command(tmp_path) == 2
    assert f"no file at {tmp_path}/in.h5ad" in capsys.readouterr().err
    assert command(tmp_path, run="runs/teeny") == 2
    assert "runs/teeny is no run folder" in capsys.readouterr().err
    assert command(tmp_path / "none") == 2
    assert f"there is no folder {tmp_path}/none to write out.h5ad into" in capsys.readouterr().err


def test_another_file_is_scored_whole(tmp_path, capsys):
    """All its treated cells, with the measures of the training cells and no cell trained on."""
    cells = shrunk_runs.cells(900)
    cells.obs_names = [f"new-{i}" for i in range(cells.n_obs)]
    path = written(cells, tmp_path / "later.h5ad")
    out = str(tmp_path / "scores")
    assert evaluate.main(["runs/tiny", "--input", path, "--output", out]) == 0
    result = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert result["split"]["kind"] == "external"
    assert result["split"]["trained_on"] == 0
    scored = sum(s["n_treated"] for s in (*result["strata"], *result["skipped"]))
    assert scored == (cells.obs["condition"] == "Burn").sum()
    assert set(result["summary"]["baselines"]) >= {"identity"}
    assert "external split" in capsys.readouterr().out


def test_a_file_on_another_scale_is_refused_until_it_is_trusted(tmp_path, capsys):
    cells = shrunk_runs.cells()
    cells.X = np.expm1(dense(cells.X))
    written(cells, tmp_path / "in.h5ad")
    assert command(tmp_path) == 2
    message = capsys.readouterr().err
    assert "in.h5ad: X looks like" in message
    assert "or set data.scale=trust" in message
    assert {path.name for path in tmp_path.iterdir()} == {"in.h5ad"}
    assert command(tmp_path, "data.cell_set_len=3") == 2
    assert "a prediction can change data.scale alone" in capsys.readouterr().err
    assert command(tmp_path, "data.scale=trust") == 0
    assert (tmp_path / "out.h5ad").exists()


def test_a_matrix_that_contradicts_itself_is_not_predicted_from(tmp_path, capsys):
    cells = shrunk_runs.cells()
    cells.X = sp.csr_matrix(dense(cells.X))
    written(cells, tmp_path / "in.h5ad")
    with h5py.File(tmp_path / "in.h5ad", "r+") as file:
        places: Any = file["X/indices"]
        places[-1] = 1 << 20
    assert command(tmp_path) == 2
    message = capsys.readouterr().err
    assert f"in.h5ad: X contradicts itself: row {cells.n_obs - 1} has an entry in column" in message
    assert {path.name for path in tmp_path.iterdir()} == {"in.h5ad"}
