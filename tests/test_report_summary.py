"""The sentence at the top says what the interval allows, and the warnings what to beware of."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from wound_jax.report.load import RunResult, Study, Variant
from wound_jax.report.sections.summary import headline, run_warnings, warnings_of

pytestmark = pytest.mark.quick


def run_of(
    model: float | None = 0.7,
    difference: dict[str, Any] | None = None,
    *,
    split: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    ceiling: float | None = None,
    **parts: Any,
) -> RunResult:
    """A run that holds what the summary reads."""
    baselines = {"ridge_pca": {"pearson_delta": 0.6}, "identity": {"pearson_delta": 0.0}}
    summary: dict[str, Any] = {"model": {"pearson_delta": model}, "baselines": baselines}
    if ceiling is not None:
        summary["ceiling"] = {"pearson_delta": ceiling}
    result = {
        "split": {"kind": "replicate", "n_replicates": 3, "leaky": False, **(split or {})},
        "strata": [{}],
        "summary": summary,
    }
    if difference is not None:
        row = {"best_baseline": "ridge_pca", **difference}
        result["uncertainty"] = {"units": "replicates", "differences": {"pearson_delta": row}}
    records = parts.pop("records", [])
    provenance = parts.pop("provenance", {})
    return RunResult(
        folder=Path("run"), config=config or {"data": {"replicate_col": "mouse_id"}},
        records=records,
        parameters={}, provenance=provenance, result={**result, **parts}, deltas=None,
        cell_map=None, draws=None,
    )  # fmt: skip


def study_of(*runs: RunResult) -> Study:
    names = ("first", "second", "third")
    return Study("s", tuple(Variant(n, (run,)) for n, run in zip(names, runs, strict=False)))


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        (
            {"value": 0.1, "low": 0.04, "high": 0.16},
            "that is better than the best baseline (ridge_pca, 0.60) by 0.10 [0.04, 0.16].",
        ),
        (
            {"value": -0.1, "low": -0.2, "high": -0.01},
            "that is worse than the best baseline (ridge_pca, 0.60) by 0.10 "
            "[\N{MINUS SIGN}0.20, \N{MINUS SIGN}0.01].",
        ),
        (
            {"value": 0.1, "low": -0.02, "high": 0.22},
            "that is no clear difference to the best baseline (ridge_pca, 0.60): "
            "0.10 [\N{MINUS SIGN}0.02, 0.22].",
        ),
        (
            {"value": 0.1, "low": None, "high": None},
            "that is better than the best baseline (ridge_pca, 0.60) by 0.10, but no "
            "interval says how sure this is.",
        ),
    ],
)
def test_the_sentence_goes_no_further_than_the_interval(difference, words):
    expected = (
        "On 3 held-out mice, the model predicts the delta (mean treated minus mean control cell) "
        f"with a correlation of 0.70; {words}"
    )
    assert headline(study_of(run_of(0.7, difference))) == expected


def test_without_intervals_the_means_are_compared():
    assert "better than the best baseline (ridge_pca, 0.60) by 0.05, but no" in headline(
        study_of(run_of(0.65))
    )
    assert "worse than the best baseline" in headline(study_of(run_of(0.5)))


def test_the_ceiling_is_told_where_it_is_known():
    assert headline(study_of(run_of(0.7, ceiling=0.81))).endswith("Measured replicates reach 0.81.")
    assert "replicates" not in headline(study_of(run_of(0.7)))


def test_of_several_variants_the_best_is_told():
    text = headline(study_of(run_of(0.5), run_of(0.8), run_of(None)))
    assert "the best of 3 variants, second, predicts" in text
    assert "0.80" in text


@pytest.mark.parametrize("model", [None, math.nan])
def test_no_correlation_is_no_result(model):
    text = headline(study_of(run_of(model)))
    assert text == "On 3 held-out mice, no correlation of deltas could be computed for the model."


@pytest.mark.parametrize(
    ("split", "column", "words"),
    [
        ({"n_replicates": 1}, "mouse_id", "On 1 held-out mouse,"),
        ({"n_replicates": 2}, "donor", "On 2 held-out donors,"),
        ({"n_replicates": 4}, "sample", "On 4 held-out replicates,"),
        ({"kind": "celltype"}, "mouse_id", "On held-out cell types (3 mice),"),
        ({"kind": "timepoint"}, "mouse_id", "On a held-out timepoint (3 mice),"),
        (
            {"kind": "random", "leaky": True},
            "mouse_id",
            "On held-out cells of 3 mice whose other cells were trained on,",
        ),
        ({"n_replicates": None}, None, "On cells of unknown replicates,"),
    ],
)
def test_what_was_held_out_is_named_in_words(split, column, words):
    run = run_of(0.7, split=split, config={"data": {"replicate_col": column}})
    assert headline(study_of(run)).startswith(words)


def test_a_sound_run_has_no_warnings():
    run = run_of(
        0.7,
        {"value": 0.1, "low": 0.0, "high": 0.2},
        records=[{"step": 100, "train/converged": 1.0}],
        config={"training": {"warmup_steps": 100}, "velocity": {"enable": False}},
        provenance={"finished": "2026-01-01"},
        skipped=[],
    )
    assert list(run_warnings(run)) == []


SMALL = {"cell_type": "T", "n_control": 3, "n_treated": 2}


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (run_of(split={"leaky": True}), "Leaky split"),
        (run_of(split={"n_replicates": 2}), "Only 2 replicates are scored"),
        (run_of(split={"n_replicates": 1}), "Only 1 replicate is scored"),
        (run_of(split={"trained_on": 7}), "7 of the scored treated cells were trained on"),
        (run_of(split={"shared_controls": 9}), "9 of the scored control cells were seen"),
        (run_of(skipped=[SMALL]), "1 group of cells is too small to be scored"),
        (run_of(skipped=[SMALL] * 3), "3 groups of cells are too small"),
        (run_of(uncertainty={"units": "strata"}), "drawn over strata, not over replicates"),
        (run_of(provenance={"started": "2026-01-01"}), "not marked as finished"),
        (run_of(config={"data": {"source": "synthetic"}}), "The cells are simulated"),
        (
            run_of(
                records=[{"step": i, "train/converged": float(i > 60)} for i in range(1, 101)]
            ),
            "converged in 80 % of the sets of the last steps",
        ),
        (
            run_of(records=[{"step": 50}], config={"training": {"warmup_steps": 200}}),
            "training.warmup_steps=200, but the run ended after 50 steps: only 25 %",
        ),
        (
            run_of(
                records=[{"step": 50}],
                config={"velocity": {"enable": True, "warmup_steps": 1000}},
            ),
            "velocity.warmup_steps=1000, but the run ended after 50 steps: only 5 %",
        ),
    ],
)  # fmt: skip
def test_what_weakens_a_figure_is_told(run, words):
    (warning,) = run_warnings(run)
    assert words in warning


def test_a_warning_of_some_variants_names_them_and_one_of_all_does_not():
    leaky = run_of(split={"leaky": True})
    (everywhere,) = warnings_of(study_of(leaky, leaky))
    assert everywhere.startswith("Leaky split")
    (somewhere,) = warnings_of(study_of(run_of(), leaky))
    assert somewhere.startswith("second: Leaky split")


def test_what_the_comparison_warns_of_comes_first_and_once():
    study = study_of(run_of(split={"leaky": True, "n_replicates": 2}))
    told = dataclasses.replace(study, warnings=("LEAKY: figures flatter.",))
    first, second = warnings_of(told)
    assert first == "LEAKY: figures flatter."
    assert second.startswith("Only 2 replicates")
