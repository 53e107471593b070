"""The commands, from a shipped config to an evaluated run, on a shrunk quickstart."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shrunk_runs

from wound_jax import evaluate, train
from wound_jax.config import load_config
from wound_jax.config.__main__ import main as config_main
from wound_jax.files import read_record, write_record
from wound_jax.training.log import read_metrics
from wound_jax.training.run_folder import new_folder

METRICS = {"pearson_delta", "pearson_delta_top100", "mse", "e_distance_ratio"}


@pytest.fixture(autouse=True)
def in_folder(monkeypatch):
    """Each test stands in the folder of the two runs, `runs/tiny` and `runs/tiny-2`."""
    monkeypatch.chdir(shrunk_runs.folder())


@pytest.fixture
def copy_of():
    """Copies a run to `runs/copy` for the length of a test."""

    def copy(run: str) -> None:
        shutil.copytree(run, "runs/copy")

    yield copy
    shutil.rmtree("runs/copy")


def result_of(path: str) -> dict:
    """The figures of an evaluation, which are strict JSON: null where one is not defined."""

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} in metrics.json")

    return json.loads((Path(path) / "metrics.json").read_text(), parse_constant=refuse)


# What an evaluation writes where no pictures are wanted.
SCORED = {
    "metrics.json", "table.txt", "bootstrap.npz", "deltas.npz", "report.html", "tables",
}  # fmt: skip


def names_in(folder: str) -> set[str]:
    return {path.name for path in Path(folder).iterdir()}


def test_a_second_run_of_a_name_gets_a_number_and_both_are_complete():
    assert names_in("runs") == {"tiny", "tiny-2"}
    expected = {
        "config.yaml", "provenance.json", "parameters.json", "split.txt", "metrics.jsonl", "tb",
        "checkpoints", "eval",
    }  # fmt: skip
    assert names_in("runs/tiny") == names_in("runs/tiny-2") == expected
    assert names_in("runs/tiny/checkpoints") == {"best", "last", "saved.json"}
    assert names_in("runs/tiny/eval") == names_in("runs/tiny-2/eval") == SCORED


@pytest.mark.slow
def test_the_pictures_are_drawn_where_they_are_wanted(copy_of):
    copy_of("runs/tiny")
    shutil.rmtree("runs/copy/eval")
    arguments = ["runs/copy", "--output", "runs/copy/eval", "evaluation.plots=true"]
    assert evaluate.main(arguments) == 0
    pictures = {"loss_curves.png", "strata.png", "umap.png"}
    assert names_in("runs/copy/eval") == {*SCORED, "umap.npz", *pictures}
    assert all(Path("runs/copy/eval", name).stat().st_size > 5_000 for name in pictures)


def test_the_stored_config_is_the_resolved_one():
    config = load_config("runs/tiny/config.yaml")
    assert config == load_config(shrunk_runs.QUICKSTART, shrunk_runs.SHRUNK)
    assert config.training.max_steps == 6


def test_provenance_says_where_the_numbers_come_from():
    record = json.loads(Path("runs/tiny/provenance.json").read_text())
    assert record["data"] == "synthetic wound set, 1200 cells (simulated)"
    assert len(record["data_fingerprint"]) == 32
    assert record["versions"]["wound_jax"]
    assert record["versions"]["jax"]
    assert record["devices"] == ["cpu:cpu"]
    assert record["started"] <= record["finished"]
    assert record["command"]


def test_metrics_are_logged_by_their_names():
    logged = read_metrics(Path("runs/tiny"))
    names = set().union(*logged)
    assert {
        "train/loss", "train/ot_loss", "train/grad_norm", "train/lr", "train/cells_per_second",
        "val/loss", "val/ot_loss",
    } <= names  # fmt: skip
    assert [r["step"] for r in logged if "train/loss" in r] == [1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in logged if "val/loss" in r] == [0, 3, 6]
    assert list(Path("runs/tiny/tb").glob("events*"))
    assert {"train/decoder_loss", "val/decoder_loss"} <= set().union(
        *read_metrics(Path("runs/tiny-2"))
    )


def test_parameters_are_counted():
    table = json.loads(Path("runs/tiny/parameters.json").read_text())
    predictor: Any = shrunk_runs.loaded("tiny").predictor
    parameters = predictor._parameters
    assert sum(table["total"].values()) == sum(v.size for v in parameters.values())
    assert table["trainable"] == table["total"]


@pytest.mark.parametrize("run", ["runs/tiny", "runs/tiny-2"])
def test_the_evaluation_has_its_schema(run):
    result = result_of(f"{run}/eval")
    assert {"kind", "part", "leaky", "replicates"} <= set(result["split"])
    assert result["split"]["part"] == "test"
    assert result["split"]["leaky"] is False
    assert len(result["strata"]) >= 5
    for stratum in result["strata"]:
        assert {"cell_type", "timepoint", "n_control", "n_treated", "model", "baselines"} <= set(
            stratum
        )
        assert min(stratum["n_control"], stratum["n_treated"]) >= 5
        assert set(stratum["model"]) >= METRICS
        assert len(stratum["baselines"]) >= 2
        assert all(set(scores) >= METRICS for scores in stratum["baselines"].values())
    small = [min(s["n_control"], s["n_treated"]) for s in result["skipped"]]
    assert small
    assert max(small) < 5
    summary = result["summary"]
    assert set(summary["model"]) >= METRICS
    assert set(summary["baselines"]) == set(result["strata"][0]["baselines"])
    mse = np.mean([stratum["model"]["mse"] for stratum in result["strata"]])
    np.testing.assert_allclose(summary["model"]["mse"], mse, rtol=1e-9)


def test_evaluate_reproduces_the_numbers_of_the_training(capsys):
    trained = result_of("runs/tiny-2/eval")
    assert evaluate.main(["runs/tiny-2", "--output", "again"]) == 0
    again = result_of("again")
    assert (again["strata"], again["summary"]) == (trained["strata"], trained["summary"])
    assert again["split"]["trained_on"] == 0
    (step,) = again["run"]["steps"]
    assert step in (0, 3, 6)
    out, err = capsys.readouterr()
    assert out == Path("again/table.txt").read_text()
    assert "warning" not in err


def test_evaluate_on_another_part():
    assert evaluate.main(["runs/tiny-2", "--part", "val"]) == 0
    result = result_of("runs/tiny-2/eval-val")
    assert result["split"]["part"] == "val"
    assert not set(result["split"]["replicates"]) & set(
        result_of("runs/tiny-2/eval")["split"]["replicates"]
    )


def test_another_split_warns_of_cells_that_were_trained_on(capsys):
    line = Path("runs/tiny-2/split.txt").read_text().splitlines()[-3]
    part, _, rest = line.partition(": ")
    mouse = rest.rpartition("treated replicates: ")[2].split(", ")[0]
    assert part == "train"
    changes = [f"split.test=[{mouse}]", "evaluation.min_cells=2"]
    assert evaluate.main(["runs/tiny-2", *changes, "--checkpoint", "last"]) == 0
    (folder,) = Path("runs/tiny-2").glob("eval-test-last-split.test-*")
    result = result_of(str(folder))
    assert result["split"]["replicates"] == [mouse]
    n = result["split"]["trained_on"]
    assert n == sum(s["n_treated"] for s in (*result["strata"], *result["skipped"])) > 0
    assert f"warning: {n} of the scored treated cells were trained on" in capsys.readouterr().err
    assert result["run"]["steps"] == [6]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs/tiny", "model.layers=2"], "'model.layers=2' would change what was trained"),
        (["runs/tony"], "runs/tony is no run folder (no config.yaml). Runs in runs: tiny, tiny-2."),
        (
            ["runs/tiny", "evaluation.min_cells=9999"],
            "evaluation.min_cells=9999 cells in both arms",
        ),
        (["runs/tiny", "--input", "a.h5ad", "--part", "val"], "give one of them"),
        (["runs/tiny", "split.sed=1"], "unknown config key 'split.sed'. Did you mean 'split.seed'"),
    ],
)
def test_evaluate_refuses_with_the_reason(arguments, message, capsys):
    assert evaluate.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_config_diff_of_two_runs(capsys):
    assert config_main(["diff", "runs/tiny", "runs/tiny-2"]) == 1
    shown = capsys.readouterr().out
    assert "data.input:" in shown
    assert "X -> obsm/X_state_baseline" in shown
    assert "model.decoder.enable:" in shown
    assert "training." not in shown


def test_resume_of_a_finished_run_evaluates_it_again(copy_of):
    copy_of("runs/tiny-2")
    shutil.rmtree("runs/copy/eval")
    assert train.main(["--resume", "runs/copy", "--no-progress"]) == 0
    assert result_of("runs/copy/eval") == result_of("runs/tiny-2/eval")
    assert read_metrics(Path("runs/copy")) == read_metrics(Path("runs/tiny-2"))
    record = json.loads(Path("runs/copy/provenance.json").read_text())
    assert [session["devices"] for session in record["resumed"]] == [["cpu:cpu"]]


@pytest.mark.parametrize(
    "command", [lambda run: train.main(["--resume", run]), lambda run: evaluate.main([run])]
)
def test_resume_and_evaluate_refuse_other_data(command, copy_of, capsys):
    copy_of("runs/tiny")
    path = Path("runs/copy/provenance.json")
    write_record(path, read_record(path) | {"data_fingerprint": "f" * 32})
    assert command("runs/copy") == 2
    assert "the data are not those runs/copy was trained on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume", "runs/tiny", "seed=1"], "--resume continues a run as it was: ['seed=1']"),
        (["--resume", "runs/none"], "runs/none is no run folder"),
        ([], "give either --config CONFIG or --resume RUN"),
        (
            ["--config", str(shrunk_runs.QUICKSTART), "--resume", "runs/tiny"],
            "give either --config",
        ),
        (
            [
                "--config",
                str(shrunk_runs.QUICKSTART),
                *shrunk_runs.SHRUNK,
                "evaluation.min_cells=9999",
            ],
            "no stratum of the test cells has evaluation.min_cells=9999 cells in both arms",
        ),
        (
            ["--config", str(shrunk_runs.QUICKSTART), *shrunk_runs.SHRUNK, "run_dir=runs/tiny"],
            "continue that run by",
        ),
    ],
)
def test_train_refuses_before_it_trains(arguments, message, capsys):
    assert train.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert names_in("runs") == {"tiny", "tiny-2"}


def test_an_interrupted_run_says_how_to_go_on(monkeypatch, tmp_path, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("wound_jax.training.loop.Loop.train", interrupted)
    run = str(tmp_path / "run")
    arguments = ["--config", str(shrunk_runs.QUICKSTART), *shrunk_runs.SHRUNK, f"run_dir={run}"]
    assert train.main(arguments) == 130
    assert f"interrupted; continue with --resume {run}" in capsys.readouterr().err
    assert {"config.yaml", "provenance.json", "parameters.json", "split.txt"} <= names_in(run)
    assert "finished" not in json.loads(Path(run, "provenance.json").read_text())
    assert evaluate.main([run]) == 2
    assert "no 'best' checkpoint in this run" in capsys.readouterr().err
    assert "checkpoints" not in names_in(run)


def test_a_new_folder_is_never_one_that_exists(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = load_config(None, ["name=a"])
    made = [new_folder(config) for _ in range(3)]
    assert made == [Path("runs/a"), Path("runs/a-2"), Path("runs/a-3")]
    named = config.model_copy(update={"run_dir": "here/it"})
    assert new_folder(named) == new_folder(named) == Path("here/it")
