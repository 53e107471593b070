"""The scorecard: who passes it, who fails which line, and what it says when it cannot tell."""

import dataclasses
import math

import numpy as np
import pytest

from wound_jax.config import RunConfig
from wound_jax.data.prepare import PreparedData, prepare
from wound_jax.evaluation.reference import Reference, fit_reference
from wound_jax.evaluation.result import Result, evaluate
from wound_jax.evaluation.scorecard import render_scorecard, scorecard

TRAINING = {
    "loss_cv": 0.05, "loss_variance": 0.01, "spikes_per_epoch": 1.0, "spikes_per_1000": 3.0,
    "improvement": 0.6, "improvement_on_identity": 0.4,
}  # fmt: skip


def measured(strata) -> list[np.ndarray]:
    """Treated cells themselves, as many as there are controls: the answer key."""
    rng = np.random.default_rng(0)
    return [s.treated[rng.integers(s.n_treated, size=s.n_control)] for s in strata]


def collapsed(strata) -> list[np.ndarray]:
    """One cell for all types and days."""
    mean = np.concatenate([s.treated for s in strata]).mean(axis=0)
    return [np.broadcast_to(mean, s.control.shape).astype(np.float32) for s in strata]


def reversed_(strata) -> list[np.ndarray]:
    """Every cell moves by the true shift, the wrong way."""
    return [np.maximum(s.control - s.mean_delta, 0.0).astype(np.float32) for s in strata]


def unchanged(strata) -> list[np.ndarray]:
    return [s.control for s in strata]


MODELS = {f.__name__: f for f in (measured, collapsed, reversed_, unchanged)}


@pytest.fixture(scope="module")
def cells() -> PreparedData:
    synthetic = {"n_cells": 4000, "n_genes": 700, "embedding_dim": 8, "seed": 3}
    return prepare(
        RunConfig.model_validate(
            {
                "data": {"source": "synthetic", "synthetic": synthetic},
                "split": {"kind": "replicate"},
            }
        )
    )


@pytest.fixture(scope="module")
def reference(cells) -> Reference:
    config = RunConfig().evaluation.model_copy(update={"bootstrap": 200})
    fitted = fit_reference(cells, config, 0)
    kept = ("identity", "global_mean_delta")
    return dataclasses.replace(fitted, baselines={name: fitted.baselines[name] for name in kept})


@pytest.fixture(scope="module")
def results(reference) -> dict[str, Result]:
    def judged(model) -> Result:
        def predict(data, planned):
            return model([one.cells(data.cells) for one in planned])

        return evaluate(predict, reference.held_out(), training=TRAINING)

    return {name: judged(model) for name, model in MODELS.items()}


def verdicts(result: Result) -> dict[str, str]:
    return {line["criterion"].split(" (")[0]: line["verdict"] for line in scored(result)}


def scored(result: Result) -> list[dict]:
    return result.figures["scorecard"]


BIOLOGY = ("macrophage polarisation", "wound markers in the right direction")


def test_the_answer_key_passes(results):
    found = verdicts(results["measured"])
    assert found["gene correlation of the change"] == "outstanding"
    assert {found[name] for name in BIOLOGY} == {"pass"}
    answerable = {v for name, v in found.items() if not name.startswith("temporal")}
    assert answerable <= {"pass", "outstanding"}


@pytest.mark.parametrize("model", ["collapsed", "reversed_", "unchanged"])
def test_what_predicts_nothing_fails(results, model):
    found = verdicts(results[model])
    assert found["gene correlation of the change"] == "fail"
    assert found["distance left to treated cells"] == "fail"
    assert {found[name] for name in BIOLOGY} == {"fail"}


def test_a_collapse_fails_the_spread_and_the_mixing(results):
    found = verdicts(results["collapsed"])
    assert found["spread of the predicted cells"] == "fail"
    assert found["predicted cells among treated ones"] == "fail"
    ratio = results["collapsed"].figures["summary"]["model"]["variance_ratio"]
    assert ratio == pytest.approx(0.0, abs=1e-6)


def test_a_reversal_moves_no_type_in_the_right_direction(results):
    assert verdicts(results["reversed_"])["cell types moved in the right direction"] == "fail"
    assert results["reversed_"].figures["summary"]["model"]["sign_share"] == 0.0


def test_a_day_that_was_trained_on_cannot_be_judged(results):
    line = next(s for s in scored(results["measured"]) if s["criterion"].startswith("temporal"))
    assert line["verdict"] == "cannot be computed"
    assert line["figure"] is None
    assert "split.kind=timepoint" in line["why"]


def test_a_high_value_no_better_than_a_baseline_fails(results):
    """The plan's .75 is met, the difference to the best baseline is not above 0."""
    result = dict(results["measured"].figures)
    difference = {"best_baseline": "global_mean_delta", "value": 0.01, "low": -0.01, "high": 0.03}
    result["uncertainty"] = {"differences": {"pearson_delta": difference}}
    line = scorecard(result)[0]
    assert line["figure"] > 0.75
    assert line["verdict"] == "fail"
    assert "outstanding; the difference" in line["why"]


@pytest.mark.parametrize(
    ("figure", "verdict"),
    [(0.5, "fail"), (0.51, "pass"), (0.66, "high pass"), (0.76, "outstanding")],
)
def test_grades_of_the_correlation(results, figure, verdict):
    result = dict(results["measured"].figures)
    result["summary"] = {**result["summary"], "model": {"pearson_delta": figure}}
    assert scorecard(result)[0]["verdict"] == verdict


def test_beside_a_figure_stands_the_best_baseline():
    """By its own direction, where no interval says which it is; one without a value is none."""
    of_baselines = {
        "identity": {"e_distance_ratio": 1.0, "type_retrieval": None, "sign_share": 0.0},
        "mean": {"e_distance_ratio": 0.4, "type_retrieval": 0.25, "sign_share": 1.0},
        "ridge": {"e_distance_ratio": 0.6, "type_retrieval": 0.75, "sign_share": 0.9},
    }
    model = {"e_distance_ratio": 0.25, "type_retrieval": 0.8, "sign_share": 0.9}
    strata = [
        {"cell_type": name, "model": {"type_retrieval": value, "pearson_delta": own},
         "baselines": {"a": {"pearson_delta": 0.2}, "b": {"pearson_delta": 0.5}}}
        for name, value, own in (("Fib", 0.7, 0.6), ("Fib", 0.6, 0.7), ("Mac", 1.0, 0.4))
    ]  # fmt: skip
    result = {"strata": strata, "summary": {"model": model, "baselines": of_baselines}}
    lines = {line["criterion"].split(" (")[0]: line for line in scorecard(result)}
    beside = {
        "distance left to treated cells": "mean 0.400",
        "cell types told apart by their change": "ridge 0.750",
        "cell types moved in the right direction": "mean 1.000",
    }
    for criterion, baseline in beside.items():
        assert lines[criterion]["baseline"] == baseline
        assert lines[criterion]["verdict"] == "pass"
    assert lines["cell types told apart by their change"]["why"] == "below in Fib"
    # Two of three strata are nearer than the better of their baselines.
    assert "in 67% of strata" in lines["cell types moved in the right direction"]["why"]
    assert lines["cells that keep their type"]["verdict"] == "cannot be computed"


def test_training_lines_follow_the_log(results):
    result = dict(results["measured"].figures)
    result["training"] = {**TRAINING, "loss_cv": 0.2, "spikes_per_epoch": 9.0}
    result["training"]["improvement_on_identity"] = 0.1
    last = {line["criterion"]: line["verdict"] for line in scorecard(result)[-3:]}
    assert set(last.values()) == {"fail"}
    result["training"] = dict.fromkeys(TRAINING, math.nan)
    assert {line["verdict"] for line in scorecard(result)[-3:]} == {"cannot be computed"}


def test_the_text_has_a_line_for_each_criterion(results):
    lines = render_scorecard(scored(results["collapsed"])).splitlines()
    assert len(lines) == 1 + len(scored(results["collapsed"]))
    assert any(" FAIL " in line for line in lines)
