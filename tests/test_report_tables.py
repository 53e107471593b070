"""The tables of a page hold what the evaluations hold, in full."""

from pathlib import Path

import numpy as np
import pytest
import report_runs
from report_page import Page, result_of, rows

from wound_jax.baselines import BASELINES
from wound_jax.evaluation.files import Deltas
from wound_jax.report import write_html, write_run_html
from wound_jax.report.words import Term, method_meaning, method_name, metric_name, metric_term


@pytest.fixture(scope="module")
def comparison(tmp_path_factory) -> Path:
    """The folder of a comparison of two variants and two seeds, with its page."""
    folder = tmp_path_factory.mktemp("comparison")
    report_runs.write_comparison(folder, {"plain": 0.55, "LoRA": 0.72})
    write_html(folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run with its page."""
    folder = report_runs.write_run(tmp_path_factory.mktemp("runs") / "one")
    write_run_html(folder)
    return folder


def test_means_over_seeds_are_those_of_the_runs(comparison):
    runs = [result_of(comparison / "runs" / f"v1-{seed}")["summary"] for seed in range(2)]
    (line,) = [
        row
        for row in rows(comparison / "tables" / "results.csv")
        if row["variant"] == "LoRA" and row["metric"] == "pearson_delta"
    ]
    model = [summary["model"]["pearson_delta"] for summary in runs]
    rival = [summary["baselines"]["ridge_pca"]["pearson_delta"] for summary in runs]
    assert float(line["model"]) == pytest.approx(np.mean(model), rel=1e-12)
    assert float(line["seed_sd"]) == pytest.approx(np.std(model, ddof=1), rel=1e-9)
    assert float(line["difference"]) == pytest.approx(np.mean(model) - np.mean(rival), rel=1e-9)
    assert (
        float(line["difference_low"]) < float(line["difference"]) < float(line["difference_high"])
    )


def test_what_sets_variants_apart_is_listed_and_nothing_else(comparison):
    (line,) = rows(comparison / "tables" / "settings_differing.csv")
    assert line == {"setting": "model.layers", "0": "1", "1": "2"}


def test_the_tables_of_a_run_are_its_results(run):
    result, tables = result_of(run), run / "eval" / "tables"
    model = {row["metric"]: row for row in rows(tables / "results.csv")}
    for metric, value in result["summary"]["model"].items():
        assert float(model[metric]["model"]) == value
        assert float(model[metric]["ceiling"]) == result["summary"]["ceiling"][metric]
        difference = result["uncertainty"]["differences"][metric]
        assert float(model[metric]["difference"]) == pytest.approx(difference["value"], rel=1e-12)
        assert float(model[metric]["difference_low"]) == pytest.approx(difference["low"], rel=1e-12)
    methods = {row["key"]: row for row in rows(tables / "methods.csv")}
    for name, scores in result["summary"]["baselines"].items():
        assert float(methods[name]["mse"]) == scores["mse"]
    strata = rows(tables / "strata.csv")
    for row, stratum in zip(strata, result["strata"], strict=True):
        assert (row["cell_type"], row["timepoint"]) == (stratum["cell_type"], stratum["timepoint"])
        assert float(row["e_distance_ratio"]) == stratum["model"]["e_distance_ratio"]
        assert int(row["n_treated"]) == stratum["n_treated"]
    verdicts = [row["verdict"] for row in rows(tables / "scorecard.csv")]
    assert verdicts == [line["verdict"] for line in result["scorecard"]]
    (training,) = rows(tables / "training.csv")
    assert float(training["loss_cv"]) == result["training"]["loss_cv"]
    mixing = {row["figure"]: row for row in rows(tables / "mixing.csv")}
    assert float(mixing["silhouette"]["real"]) == result["mixing"]["silhouette_real"]
    macrophages = rows(tables / "macrophages.csv")
    values = result["biology"]["polarisation"]["values"]
    assert [float(r["predicted_change"]) for r in macrophages] == [
        value["predicted_change"] for value in values
    ]


def test_named_genes_carry_their_changes(run):
    deltas = Deltas.load(run / "eval" / "deltas.npz")
    lines = rows(run / "eval" / "tables" / "genes.csv")
    assert len(lines) == 10 * len(deltas.strata)
    line = lines[0]
    gene = deltas.genes.tolist().index(line["gene"])
    miss = np.abs(deltas.predicted_delta[0] - deltas.true_delta[0])
    assert gene == miss.argmax()
    assert float(line["true"]) == float(deltas.true_delta[0, gene])
    assert float(line["baseline"]) == float(deltas.baseline_delta[0, gene])


def test_the_table_of_a_comparison_decides(tmp_path):
    line = {
        "metric": "pearson_delta", "variant": "a", "seeds": 1, "model": 0.8765, "model_sd": None,
        "model_low": 0.8, "model_high": 0.9, "best_baseline": "type_mean_delta", "baseline": 0.5,
        "difference": 0.3765, "difference_low": 0.3, "difference_high": 0.4, "ceiling": 0.85,
        "units": "replicates", "n_units": 3,
    }  # fmt: skip
    folder = report_runs.write_comparison(tmp_path, {"a": 0.6, "b": 0.5}, 1, [line])
    page = Page(write_html(folder))
    first = rows(folder / "tables" / "results.csv")[0]
    found = [first[key] for key in ("model", "difference", "difference_low", "difference_high")]
    assert found == ["0.8765", "0.3765", "0.3", "0.4"]
    assert first["baseline_name"] == "type_mean_delta"
    assert "correlation of 0.88" in page.sections["summary"]
    assert "by 0.38 [0.30, 0.40]" in page.sections["summary"]


def test_variants_are_set_beside_the_first(comparison):
    lines = rows(comparison / "tables" / "variants.csv")
    assert {line["variant"] for line in lines} == {"LoRA"}
    assert {line["first"] for line in lines} == {"plain"}
    results = [result_of(comparison / "runs" / f"v{i}-{s}") for i in (0, 1) for s in (0, 1)]
    scores = np.array([result["summary"]["model"]["mse"] for result in results]).reshape(2, 2)
    (mse,) = [line for line in lines if line["metric"] == "mse"]
    gains = scores[0] - scores[1]
    assert float(mse["difference"]) == pytest.approx(gains.mean(), rel=1e-9), "less is better"
    assert float(mse["seed_sd"]) == pytest.approx(gains.std(ddof=1), rel=1e-9)
    assert float(mse["difference_low"]) < gains.mean() < float(mse["difference_high"])


def test_what_has_no_words_here_speaks_for_itself():
    assert metric_name("pearson_delta") == "correlation of deltas"
    assert metric_name("mae") == "mae"
    assert "mean" in metric_term("mae").meaning.lower()
    assert "Beware" in metric_term("pearson_mean").meaning, "a trap is told"
    assert metric_term("made_up") == Term("made up", "")
    assert method_name("ridge_pca") == "ridge_pca", "one name everywhere, that of the config"
    assert method_name("ceiling") == "noise ceiling"
    assert method_meaning("made_up") == ""
    for name in (*BASELINES, "model", "ceiling"):
        # A ranking has room for 26 letters.
        assert method_meaning(method_name(name)), name
        assert len(method_name(name)) <= 26, name
    assert method_name(None) == "\N{EN DASH}"
