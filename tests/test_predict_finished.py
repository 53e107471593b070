"""A run that shares its means with linear rules and counts its zeros predicts as it was scored."""

import dataclasses
import json
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import shrunk_runs

from wound_jax import evaluate, predict, train
from wound_jax.config.keys import value_at
from wound_jax.data.prepare import prepare
from wound_jax.data.strata import Stratum, plan_strata
from wound_jax.data.synthetic import simulate
from wound_jax.errors import UserError
from wound_jax.evaluation.reference import fit_reference
from wound_jax.files import DamagedFile
from wound_jax.prediction.calibration.calibration import (
    FILE,
    load_blend,
    load_calibration,
    save_calibration,
)
from wound_jax.prediction.files import predict_file
from wound_jax.prediction.loaded_run import load_run
from wound_jax.prediction.settings import PredictionSettings
from wound_jax.prediction.strata import of_model

pytestmark = pytest.mark.usefixtures("light_scores")

AFTER = [
    "prediction.linear_weight=0.5",
    "prediction.shrink_controls=true",
    "prediction.across_genes=true",
    "prediction.round_to_counts=true",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trained run and the file of its cells."""
    folder = tmp_path_factory.mktemp("finished")
    arguments = ["--config", str(shrunk_runs.QUICKSTART), "--no-progress", *shrunk_runs.SHRUNK]
    # Enough cells that five types can be learnt from.
    more = ["data.synthetic.n_cells=2400", f"run_dir={folder / 'run'}"]
    assert train.main([*arguments, *AFTER, *more]) == 0
    config = load_run(folder / "run").config
    simulate(value_at(config, "data.synthetic")).adata.write_h5ad(folder / "cells.h5ad")
    return folder


def test_rules_come_back_from_disk_as_they_were(trained, tmp_path):
    loaded = load_run(trained / "run")
    data = prepare(loaded.config, loaded.spec)
    reference = fit_reference(data, loaded.config.evaluation, loaded.config.split.seed)
    network = of_model(loaded.predictor)
    calibration = reference.calibrate(network, loaded.config.prediction)
    share = calibration.blend
    assert share is not None
    save_calibration(tmp_path, calibration)
    again = load_blend(tmp_path)
    assert again.weights == share.weights
    planned, _ = plan_strata(data, loaded.config.evaluation, "test")
    strata = [one.cells(data.cells) for one in planned]
    assert {"linear", "genes"} <= {
        name for one in strata for name, weight in share.weight(one)._asdict().items() if weight
    }
    for stratum in strata:
        np.testing.assert_allclose(
            again.members.rule.delta(stratum), share.members.rule.delta(stratum), atol=1e-12
        )
        np.testing.assert_array_equal(
            again.apply(stratum.control, stratum), share.apply(stratum.control, stratum)
        )


def test_the_file_holds_what_the_evaluation_scored(trained):
    """Held-out strata whose control cells are all in the test part, cell by cell."""
    output = trained / "pred.h5ad"
    arguments = [str(trained / "run"), "--input", str(trained / "cells.h5ad")]
    assert predict.main([*arguments, "--output", str(output), "--perturbation", "Burn"]) == 0
    written = ad.read_h5ad(output)
    values = written.to_df().to_numpy()
    loaded = load_run(trained / "run")
    share = load_blend(trained / "run")
    plain = trained / "plain.h5ad"
    off = PredictionSettings(
        linear_weight=0.0, shrink_controls=False, across_genes=False, round_to_counts=False
    )
    alone = dataclasses.replace(loaded, config=loaded.config.model_copy(update={"prediction": off}))
    whole = {"with_controls": False, "missing": "error"}
    predict_file(alone, str(trained / "cells.h5ad"), plain, "Burn", **whole)
    network = ad.read_h5ad(plain)
    raw = network.to_df().to_numpy()
    assert (values == 0).mean() > (raw == 0).mean(), "counting makes zeros"
    data = prepare(loaded.config, loaded.spec)
    labels = [loaded.config.data.cell_type_col, loaded.config.data.timepoint_col]
    of = pd.DataFrame({name: network.obs[name].astype(str) for name in labels})
    for kind, day in set(map(tuple, of.to_numpy())):
        rows = np.flatnonzero((of == [kind, day]).all(axis=1))
        control = data.cells.features[data.cells.annotations.condition == loaded.spec.control][rows]
        stratum = stratum_of(kind, day, control)
        assert share.members.regression is not None
        regressed = share.members.regression.mean(raw[rows].mean(axis=0, dtype=np.float64), stratum)
        wanted = 0.5 * regressed + 0.5 * np.maximum(
            control.mean(axis=0) + share.members.rule.delta(stratum), 0.0
        )
        # Rounding to counts is right up to some counts of a cell in the group's mean.
        error = np.abs(values[rows].mean(axis=0) - wanted)
        one = np.where(control > 0, control, np.inf).min(axis=1)
        assert (error <= 2 * (one.max() + np.abs(np.diff(one)).sum()) / len(rows) + 1e-5).all()


def stratum_of(kind: str, day: str, control: np.ndarray):
    return Stratum(kind, day, control, control[:0], "Burn")


def test_the_result_says_where_the_means_are_from(trained):
    result = json.loads((trained / "run" / "eval" / "metrics.json").read_text())
    assert result["mean_from"]
    table = (trained / "run" / "eval" / "table.txt").read_text()
    # Some types have too few cells to be learnt from, and count as unknown.
    of_genes = [of["genes"] for of in result["mean_from"].values()]
    assert min(of_genes) == 0.0 < max(of_genes) <= 0.5
    network, regressed, linear, genes = (
        f"{100 * np.mean([of[name] for of in result['mean_from'].values()]):.0f} %"
        for name in ("network", "regressed", "linear", "genes")
    )
    assert (
        f"are {network} the network's, {regressed} the same regressed, {linear} of the linear "
        f"rules, {genes} learnt across genes"
    ) in table
    for figures in result["mean_from"].values():
        # An unknown type has no controls in training to regress to.
        of_network = "network" if figures["genes"] > 0 else "regressed"
        assert figures[of_network] == 0.5
        assert figures["linear"] + figures["genes"] == 0.5
        assert 0.0 <= figures["slope"] <= 1.0


def test_a_damaged_calibration_and_one_of_another_run_say_what_to_do(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained / "run", run)
    said = r"Remove it, and run python -m wound_jax\.evaluate .*run to have it fitted anew"
    written = (run / FILE).read_bytes()
    for at in (0, 1000, len(written) - 1):
        flipped = bytearray(written)
        flipped[at] ^= 4
        (run / FILE).write_bytes(flipped)
        with pytest.raises(DamagedFile, match=rf"{FILE} is damaged.*{said}"):
            load_blend(run)
    (run / FILE).write_bytes(written)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("hidden_dim: 16\n", "hidden_dim: 32\n"))
    with pytest.raises(DamagedFile, match=rf"{FILE} was not made by this run: its config.*{said}"):
        load_blend(run)


def test_a_run_without_its_rules_says_what_to_do(trained, tmp_path):
    with pytest.raises(UserError, match=r"wound_jax\.evaluate"):
        load_blend(tmp_path)


def predicted(run: Path, cells: Path, output: Path, *options: str, perturbation: str = "Burn"):
    arguments = [str(run), "--input", str(cells), "--output", str(output), "--no-progress"]
    return predict.main([*arguments, "--perturbation", perturbation, *options])


@pytest.mark.parametrize(
    "changes",
    [
        ["--checkpoint", "last"],
        ["prediction.linear_weight=0.9"],
        ["prediction.round_to_counts=false"],
        ["evaluation.min_cells=20"],
        ["--part", "val"],
        [],
    ],
    ids=lambda changes: " ".join(changes) or "unchanged",
)
def test_an_evaluation_writes_nothing_that_predicts(trained, tmp_path, changes):
    run = trained / "run"
    files = {path: path.read_bytes() for path in (run / FILE, run / "config.yaml")}
    arguments = [str(run), *changes, "evaluation.plots=false", "--output", str(tmp_path / "out")]
    assert evaluate.main(arguments) == 0
    assert {path: path.read_bytes() for path in files} == files


def test_a_calibration_is_written_whole_or_not_at_all(trained, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(trained / "run", run)
    calibration = (run / FILE).read_bytes()
    loaded = load_run(run)
    data = prepare(loaded.config, loaded.spec)
    reference = fit_reference(data, loaded.config.evaluation, loaded.config.split.seed)
    fitted = reference.calibrate(of_model(loaded.predictor), loaded.config.prediction)

    def broken(part, content):
        part.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", broken)
    with pytest.raises(KeyboardInterrupt):
        save_calibration(run, fitted)
    assert (run / FILE).read_bytes() == calibration
    assert not list(run.glob("*.part"))


def test_an_evaluation_gives_back_a_calibration_that_is_missing(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained / "run", run)
    (run / FILE).unlink()
    assert evaluate.main([str(run), "--checkpoint", "last"]) == 0
    assert not (run / FILE).exists(), "fitted for another state than the one that predicts"
    assert evaluate.main([str(run)]) == 0
    assert (run / FILE).read_bytes() == (trained / "run" / FILE).read_bytes()


def test_predicted_controls_keep_the_mean_of_the_network(trained, tmp_path):
    """No rule says how controls become controls; counting zeros moves a mean by a count at most."""
    run, cells = trained / "run", trained / "cells.h5ad"
    assert predicted(run, cells, tmp_path / "sham.h5ad", perturbation="Sham") == 0
    found = ad.read_h5ad(tmp_path / "sham.h5ad").to_df().to_numpy()
    loaded = load_run(run)
    settings = loaded.config.prediction
    calibration = load_calibration(run, settings, "Sham", loaded.spec.control)
    assert calibration.blend is None
    assert calibration.round_to_counts
    assert (found == 0).mean() > 0.1


def test_genes_of_a_decoder_are_finished_with_the_expression_of_the_file(tmp_path):
    """Which the model itself never reads; real controls need not be asked for."""
    changes = [*shrunk_runs.SHRUNK, *shrunk_runs.EMBEDDING, *AFTER]
    run, path = tmp_path / "run", tmp_path / "cells.h5ad"
    arguments = ["--config", str(shrunk_runs.QUICKSTART), "--no-progress", *changes]
    assert train.main([*arguments, f"run_dir={run}"]) == 0
    cells = shrunk_runs.cells()
    cells.write_h5ad(path)
    assert predicted(run, path, tmp_path / "alone.h5ad") == 0
    assert predicted(run, path, tmp_path / "both.h5ad", "--with-controls") == 0
    alone, both = (ad.read_h5ad(tmp_path / f"{name}.h5ad") for name in ("alone", "both"))
    assert both.n_obs == 2 * alone.n_obs
    np.testing.assert_array_equal(alone.to_df().to_numpy(), both.to_df().to_numpy()[: alone.n_obs])
    cells.X = None
    cells.write_h5ad(path)
    assert predicted(run, path, tmp_path / "bare.h5ad") == 2
    assert not (tmp_path / "bare.h5ad").exists()


def test_negative_expression_is_refused_before_training(trained, tmp_path, capsys):
    cells = ad.read_h5ad(trained / "cells.h5ad")
    cells.X = np.asarray(cells.to_df().to_numpy() - 1.0, np.float32)
    cells.write_h5ad(tmp_path / "scaled.h5ad")
    arguments = ["--config", str(shrunk_runs.QUICKSTART), "--no-progress", *shrunk_runs.SHRUNK[4:]]
    scaled = ["data.source=file", f"data.path={tmp_path / 'scaled.h5ad'}", "data.preprocess=none"]
    scaled += ["data.scale=trust"]
    assert train.main([*arguments, *AFTER, *scaled, f"run_dir={tmp_path / 'run'}"]) == 2
    assert "set prediction.round_to_counts=false" in capsys.readouterr().err
