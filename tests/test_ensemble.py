"""Runs that differ in their seed, as one model: made, scored, predicted with, refused."""

import json
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import shrunk_runs
from tiny import dense

from wound_jax import compare, ensemble, evaluate, predict, train
from wound_jax.config.keys import value_at
from wound_jax.data.prepare import prepare
from wound_jax.data.strata import plan_strata
from wound_jax.data.synthetic import simulate
from wound_jax.errors import UserError
from wound_jax.evaluation.reference import fit_reference
from wound_jax.files import read_record, write_record
from wound_jax.prediction import blocks as model_rows
from wound_jax.prediction.calibration.calibration import load_blend
from wound_jax.prediction.loaded_run import load_run
from wound_jax.prediction.strata import of_model

pytestmark = pytest.mark.usefixtures("light_scores")

SEEDS = (1, 2)
NOT_SINGLE = "both is an ensemble, and runs are compared or averaged one by one"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two trained runs, and their ensemble with half of its means the linear rules'."""
    folder = tmp_path_factory.mktemp("ensemble")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for seed in SEEDS:
            own = ["prediction.linear_weight=0.5", f"seed={seed}", f"run_dir=runs/{seed}"]
            arguments = ["--config", str(shrunk_runs.QUICKSTART), "--no-progress"]
            changes = [*shrunk_runs.SHRUNK, "prediction.across_genes=false", *own]
            assert train.main([*arguments, *changes]) == 0
        assert ensemble.main(["runs/1", "runs/2", "--output", "ensembles/both"]) == 0
    return folder


@pytest.fixture
def copied(made, tmp_path, monkeypatch):
    """A copy in another place, to work in; the ensemble finds its runs there."""
    shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")


def test_its_cells_are_the_means_of_the_runs_cells(copied):
    both, *alone = (load_run(folder) for folder in ("ensembles/both", "runs/1", "runs/2"))
    data = prepare(both.config, both.spec)
    strata = plan_strata(data, both.config.evaluation, "test")[0]
    mean, one, two = (of_model(run.predictor)(data, strata) for run in (both, *alone))
    assert both.steps == tuple(step for run in alone for step in run.steps)
    for cells, first, second in zip(mean, one, two, strict=True):
        assert not np.array_equal(first, second)
        np.testing.assert_allclose(cells, (first + second) / 2, rtol=1e-6, atol=1e-7)


def test_it_is_scored_with_what_its_config_asks_for(copied, capsys):
    result = json.loads(Path("ensembles/both/eval/metrics.json").read_text())
    assert {of["linear"] for of in result["mean_from"].values()} == {0.5}
    assert result["training"] is None, "it was not trained itself"
    reasons = [line["why"] for line in result["scorecard"]]
    assert reasons.count("not trained as one; its runs have this line") == 3
    assert load_blend(Path("ensembles/both")).weights
    assert Path("ensembles/both/eval/report.html").is_file()
    assert evaluate.main(["ensembles/both", "--part", "val"]) == 0
    assert "everything is in ensembles/both/eval-val" in capsys.readouterr().err


def test_the_figures_of_the_runs_stand_below(copied, capsys):
    assert ensemble.main(["runs/2", "runs/1", "--output", "again"]) == 0
    shown = capsys.readouterr().out
    figures = [
        json.loads(Path(f"runs/{seed}/eval/metrics.json").read_text())["summary"]["model"]
        for seed in (2, 1)
    ]
    two, one = (of["pearson_delta"] for of in figures)
    assert f"the runs alone: pearson_delta {two:.3f}, {one:.3f}; e_distance_ratio " in shown


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_file_is_predicted_as_it_was_scored(copied, in_memory, monkeypatch):
    if not in_memory:
        monkeypatch.setattr(model_rows, "IN_MEMORY", 0)
    run = load_run("ensembles/both")
    data, evaluation = prepare(run.config, run.spec), run.config.evaluation
    adata = simulate(value_at(run.config, "data.synthetic")).adata
    adata[np.sort(data.split.controls["test"])].copy().write_h5ad("cells.h5ad")
    arguments = ["ensembles/both", "--input", "cells.h5ad", "--output", "out.h5ad"]
    assert predict.main([*arguments, "--perturbation", "Burn", "--no-progress"]) == 0
    written = ad.read_h5ad("out.h5ad")
    assert list(written.uns["wound_jax"]["steps"]) == list(run.steps)
    reference = fit_reference(data, evaluation, run.config.split.seed)
    strata = plan_strata(data, evaluation, "test")[0]
    network = of_model(run.predictor)
    scored = reference.calibrate(network, run.config.prediction).after(network)
    names = [run.config.data.cell_type_col, run.config.data.timepoint_col]
    labels = pd.DataFrame({name: written.obs[name].astype(str) for name in names})
    for stratum, cells in zip(strata, scored(data, strata), strict=True):
        rows = (labels == [stratum.cell_type, stratum.timepoint]).all(axis=1)
        np.testing.assert_allclose(dense(written[rows.to_numpy()].X), cells, rtol=1e-5, atol=1e-6)


def test_it_finds_its_runs_where_both_were_moved(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "elsewhere" / "runs" / "2")
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"runs/2 is no run folder .* Runs in .*runs: 1\."):
        load_run("ensembles/both")
    shutil.copytree(made / "runs" / "2", "runs/2")
    assert len(load_run("ensembles/both").steps) == 2


def finish(run: str, when: str | None) -> None:
    """Changes when a run was trained and scored to its end."""
    path = Path(run) / "provenance.json"
    record = read_record(path) | {"finished": when}
    write_record(path, {key: of for key, of in record.items() if of is not None})


@pytest.mark.parametrize(("when", "said"), [("2031-01-01T00:00:00+00:00", "2031"), (None, "never")])
def test_a_run_that_was_trained_anew_in_its_place_is_noticed(copied, when, said):
    finish("runs/2", when)
    with pytest.raises(UserError, match=rf"runs/2 is not the run .* finished {said}.*, expected"):
        load_run("ensembles/both")
    assert ensemble.main(["runs/1", "runs/2", "--output", "again"]) == (0 if when else 2)


def test_interrupted_while_it_is_scored_it_is_made_again(copied, capsys):
    made = {of: (Path("ensembles/both") / of).read_text() for of in ("ensemble.json", "split.txt")}
    scores = Path("ensembles/both/eval/metrics.json")
    summary = json.loads(scores.read_text())["summary"]
    finish("ensembles/both", None)
    scores.unlink()
    assert ensemble.main(["runs/1", "runs/2", "--output", "ensembles/both"]) == 0
    assert json.loads(scores.read_text())["summary"] == summary
    assert {of: (Path("ensembles/both") / of).read_text() for of in made} == made
    assert "finished" in json.loads(Path("ensembles/both/provenance.json").read_text())


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (["runs/1"], "one run is no ensemble; give two or more"),
        (["runs/1", "runs/1"], "are one run twice"),
        (["runs/1", "runs/3"], "runs/3 is no run folder (no config.yaml). Runs in runs: 1, 2, 4."),
        (["runs/1", "runs/4"], "differ in more than their seed:\nmodel.dropout: 0.0 -> 0.25"),
        (
            ["runs/1", "ensembles/both"],
            NOT_SINGLE,
        ),
    ],
)
def test_what_is_no_ensemble_is_refused(copied, runs, message, capsys):
    shutil.copytree("runs/2", "runs/4")
    config = Path("runs/4/config.yaml")
    config.write_text(config.read_text().replace("\n  dropout: 0.0\n", "\n  dropout: 0.25\n"))
    assert ensemble.main([*runs, "--output", "new"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("new").exists()


def test_other_data_are_refused(copied, capsys):
    path = Path("runs/2/provenance.json")
    write_record(path, read_record(path) | {"data_fingerprint": "another"})
    assert ensemble.main(["runs/1", "runs/2", "--output", "new"]) == 2
    assert "the data are not those runs/2 was trained on" in capsys.readouterr().err
    assert not Path("new").exists()


def test_what_lies_in_the_output_stays(copied, capsys):
    assert ensemble.main(["runs/1", "runs/2", "--output", "ensembles/both"]) == 2
    assert "ensembles/both exists and is not empty" in capsys.readouterr().err


def test_it_is_not_trained_on_nor_compared(copied, capsys):
    assert train.main(["--resume", "ensembles/both"]) == 2
    expected = "only a single run can be trained on; expected one of its runs: runs/1, runs/2."
    assert expected in capsys.readouterr().err
    assert compare.main(["ensembles/both", "runs/1", "--output", "compared"]) == 2
    assert NOT_SINGLE in capsys.readouterr().err
