"""The plan's acceptance criteria, one line each: figure, threshold, baseline, verdict.

Owns thresholds and grades. A criterion reads the finished result of an evaluation and nothing else;
what the data at hand cannot answer is said, never passed:

    verdict = best grade whose threshold the figure meets, and only where every condition holds

Thresholds stated in the plan are marked "plan"; the others are this project's own, set before any
model was scored, and marked "ours".
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from wound_jax.errors import named, on_one_line

FAIL, PASS, HIGH, OUTSTANDING = "fail", "pass", "high pass", "outstanding"
UNKNOWN = "cannot be computed"

Result = Mapping[str, Any]
Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """One line of the scorecard.

    Attributes:
        criterion: what is judged, in words.
        figure: the model's value; None where there is none.
        threshold: the grades' thresholds, in words.
        baseline: what the figure is to be read beside, in words.
        verdict: "outstanding", "high pass", "pass", "fail" or "cannot be computed".
        why: what decided, or what is missing.
    """

    criterion: str
    figure: float | None
    threshold: str
    baseline: str
    verdict: str
    why: str


def scorecard(result: Result) -> list[dict[str, Any]]:
    """The lines of a finished evaluation.

    Args:
        result: content of `eval/metrics.json` without its scorecard: "strata", "summary", and,
            where they were computed, "uncertainty", "training", "biology" and "mixing".

    Returns:
        One mapping a line, with the attributes of `Line`.
    """
    return [asdict(line) for criterion in CRITERIA for line in criterion(result)]


def render_scorecard(lines: Sequence[Mapping[str, Any]]) -> str:
    """The scorecard as an aligned text table."""
    header = ("criterion", "figure", "threshold", "beside it", "verdict", "why")
    rows: list[Sequence[str]] = [header]
    rows += [
        (
            line["criterion"],
            "n/a" if _missing(line["figure"]) else f"{line['figure']:.3f}",
            line["threshold"],
            line["baseline"],
            line["verdict"].upper() if line["verdict"] == FAIL else line["verdict"],
            line["why"],
        )
        for line in lines
    ]
    rows = [[on_one_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    )


def _correlation(result: Result) -> Iterator[Line]:
    """Correlation of the change, graded; needs to beat the best baseline beyond its interval."""
    figure = result["summary"]["model"].get("pearson_delta")
    threshold = "> .5 pass, > .65 high, > .75 outstanding (plan); difference above 0"
    name = "gene correlation of the change (pearson_delta)"
    difference = _difference(result, "pearson_delta")
    if _missing(figure) or difference is None:
        yield _unknown(name, threshold, "no interval for the difference to the best baseline")
        return
    grades = ((0.75, OUTSTANDING), (0.65, HIGH), (0.5, PASS))
    verdict = next((grade for least, grade in grades if figure > least), FAIL)
    beats = difference["low"] > 0
    beside = _beside(result, "pearson_delta", difference["best_baseline"])
    span = _signed(difference)
    if verdict != FAIL and not beats:
        yield Line(
            name,
            figure,
            threshold,
            beside,
            FAIL,
            f"the value alone would be: {verdict}; the difference to the best baseline is {span}",
        )
        return
    yield Line(name, figure, threshold, beside, verdict, f"difference to the best baseline {span}")


def _distance(result: Result) -> Iterator[Line]:
    """What is left of the distance from control to treated cells."""
    yield _below(
        result,
        "distance left to treated cells (e_distance_ratio)",
        "e_distance_ratio",
        0.3,
        "< .3 (plan)",
    )


def _cell_types(result: Result) -> Iterator[Line]:
    """The three readings of "cell-type accuracy", each above .7."""
    readings = {
        "cell types told apart by their change (type_retrieval)": "type_retrieval",
        "cell types moved in the right direction (sign_share)": "sign_share",
        "cells that keep their type (type_kept)": "type_kept",
    }
    for name, metric in readings.items():
        figure = result["summary"]["model"].get(metric)
        if _missing(figure):
            yield _unknown(name, "> .7 (plan)", "not defined on these strata")
            continue
        verdict = PASS if figure > 0.7 else FAIL
        weak = _types_below(result["strata"], metric, 0.7)
        why = f"below in {named(weak)}" if weak else "above in every cell type"
        if metric == "sign_share" and verdict == PASS:
            share = _share_nearer(result["strata"])
            verdict = PASS if share > 0.5 else FAIL
            why += f"; nearer than the best baseline in {share:.0%} of strata"
        yield Line(name, figure, "> .7 (plan)", _best_beside(result, metric), verdict, why)


def _stability(result: Result) -> Iterator[Line]:
    """Smoothness of training: says nothing about how good a model is."""
    training = result.get("training") or {}
    note = "no evidence of quality"
    for name, key, most, threshold in (
        ("variation of the training loss at its end", "loss_cv", 0.1, "< .1 (plan)"),
        ("gradient spikes per epoch", "spikes_per_epoch", 5.0, "< 5 (plan)"),
    ):
        figure = _number(training.get(key))
        if _missing(figure):
            yield _unknown(name, threshold, _why_not(result, "too few steps were logged"))
            continue
        beside = {
            "loss_cv": ("raw variance", "loss_variance"),
            "spikes_per_epoch": ("per 1,000 steps", "spikes_per_1000"),
        }[key]
        verdict = PASS if figure < most else FAIL
        shown = _figure(training.get(beside[1]))
        yield Line(name, figure, threshold, f"{beside[0]} {shown}", verdict, note)


def _why_not(result: Result, reason: str) -> str:
    """Why a figure of the training is missing: it was not one training, or the reason."""
    return "not trained as one; its runs have this line" if not result.get("training") else reason


def _improvement(result: Result) -> Iterator[Line]:
    """Fall of the validation loss against the untrained model and against no change at all."""
    training = result.get("training") or {}
    untrained = training.get("improvement")
    identity = _number(training.get("improvement_on_identity"))
    name = "fall of the validation loss below the identity's"
    if _missing(identity):
        yield _unknown(name, "> .2 (plan)", _why_not(result, "no validation cells"))
        return
    shown = _figure(untrained)
    verdict = PASS if identity > 0.2 else FAIL
    why = "the identity decides: any training beats random parameters"
    yield Line(name, identity, "> .2 (plan)", f"below the untrained model's {shown}", verdict, why)


def _polarisation(result: Result) -> Iterator[Line]:
    """Scores of macrophages change as in the held-out replicates."""
    found, name = _biology(result, "polarisation"), "macrophage polarisation"
    threshold = "right sign each day, inside the replicates' interval (plan)"
    if not found["applicable"]:
        yield _unknown(name, threshold, found["reason"])
        return
    right, judged = found["signs_right"], found["signs_judged"]
    inside, values = found["inside"], found["n_values"]
    why = f"{right} of {judged} signs right, {inside} of {values} values inside"
    yield Line(name, right / judged, threshold, "no change: 0", _accepted(found), why)


def _temporal(result: Result) -> Iterator[Line]:
    """A day that was left out is predicted better than by interpolation."""
    found, name = _biology(result, "temporal"), "temporal coherence (error gained on interpolation)"
    threshold = "> 0, and steps beyond permuted days (plan)"
    if not found["applicable"]:
        yield _unknown(name, threshold, found["reason"])
        return
    beside = f"interpolation's error {found['interpolation_error']:.3f}"
    why = f"correlation of steps {found['step_correlation']:.2f}, p {found['step_p_value']:.3f}"
    yield Line(name, found["error_gain"], threshold, beside, _accepted(found), why)


def _wound_markers(result: Result) -> Iterator[Line]:
    """Registered markers change in their registered direction."""
    found, name = _biology(result, "wound_markers"), "wound markers in the right direction"
    threshold = "beyond random sets, p < .05 (plan)"
    if not found["applicable"]:
        yield _unknown(name, threshold, found["reason"])
        return
    beside = f"random sets {found['null_mean']:.2f}"
    why = f"p {found['p_value']:.3f}, {found['n_genes']} genes qualify"
    yield Line(name, found["accuracy"], threshold, beside, _accepted(found), why)


def _population(result: Result) -> Iterator[Line]:
    """Predictions are populations: as spread as treated cells, and mixed with them."""
    ratio = result["summary"]["model"].get("variance_ratio")
    name, threshold = "spread of the predicted cells (variance_ratio)", ".5 to 2 (ours)"
    if _missing(ratio):
        yield _unknown(name, threshold, "not defined on these strata")
    else:
        verdict = PASS if 0.5 <= ratio <= 2.0 else FAIL
        beside = _beside(result, "variance_ratio", "identity")
        yield Line(name, ratio, threshold, beside, verdict, "collapse to a mean would be 0")
    found = result.get("mixing") or {"applicable": False, "reason": "it was not computed"}
    name = "predicted cells among treated ones (knn_mixing)"
    threshold = "more than half way from the identity to real cells (ours)"
    if not found["applicable"]:
        yield _unknown(name, threshold, found["reason"])
        return
    figure, low, high = (found[f"knn_mixing{end}"] for end in ("", "_identity", "_real"))
    verdict = PASS if figure > 0.5 * (low + high) else FAIL
    beside = f"identity {low:.2f}, real cells {high:.2f}"
    auc = f"classifier AUC {found['classifier_auc']:.2f} (real {found['classifier_auc_real']:.2f})"
    yield Line(name, figure, threshold, beside, verdict, auc)


CRITERIA: tuple[Callable[[Result], Iterator[Line]], ...] = (
    _correlation,
    _distance,
    _cell_types,
    _population,
    _polarisation,
    _wound_markers,
    _temporal,
    _improvement,
    _stability,
)


def _below(result: Result, name: str, metric: str, most: float, threshold: str) -> Line:
    figure = result["summary"]["model"].get(metric)
    if _missing(figure):
        return _unknown(name, threshold, "no stratum has an effect to compare with")
    difference = _difference(result, metric)
    why = ""
    if difference is not None:
        side = "nearer than" if difference["low"] > 0 else "not told apart from or behind"
        why = f"{side} the best baseline: {_signed(difference)}"
    verdict = PASS if figure < most else FAIL
    return Line(name, figure, threshold, _best_beside(result, metric), verdict, why)


def _unknown(criterion: str, threshold: str, why: str) -> Line:
    return Line(criterion, None, threshold, "", UNKNOWN, why)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _missing(value: float | None) -> bool:
    return value is None or math.isnan(value)


def _accepted(found: Figures) -> str:
    return PASS if found["accepted"] else FAIL


def _biology(result: Result, name: str) -> Figures:
    found = (result.get("biology") or {}).get(name)
    return found or {"applicable": False, "reason": "it was not computed"}


def _difference(result: Result, metric: str) -> Figures | None:
    """Model minus best baseline with its interval; None where there is no interval."""
    found = (result.get("uncertainty") or {}).get("differences", {}).get(metric)
    return None if found is None or _missing(found["low"]) else found


def _signed(difference: Figures) -> str:
    return f"{difference['value']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]"


def _beside(result: Result, metric: str, baseline: str) -> str:
    value = result["summary"]["baselines"].get(baseline, {}).get(metric)
    return f"{baseline} {_figure(value)}"


def _best_beside(result: Result, metric: str) -> str:
    """The best baseline of that metric and its value."""
    difference = _difference(result, metric)
    if difference is not None:
        return _beside(result, metric, difference["best_baseline"])
    values = {
        name: scores[metric]
        for name, scores in result["summary"]["baselines"].items()
        if not _missing(scores.get(metric))
    }
    if not values:
        return ""
    best = min if metric == "e_distance_ratio" else max
    return _beside(result, metric, best(values, key=values.__getitem__))


def _types_below(strata: Sequence[Figures], metric: str, least: float) -> list[str]:
    """Cell types whose mean over strata does not reach the threshold."""
    values: dict[str, list[float]] = {}
    for stratum in strata:
        value = stratum["model"].get(metric)
        if not _missing(value):
            values.setdefault(stratum["cell_type"], []).append(value)
    return sorted(name for name, found in values.items() if sum(found) / len(found) <= least)


def _share_nearer(strata: Sequence[Figures]) -> float:
    """Share of strata whose change the model predicts better than every baseline does."""
    better = []
    for stratum in strata:
        own = stratum["model"].get("pearson_delta")
        others = [scores.get("pearson_delta") for scores in stratum["baselines"].values()]
        known = [value for value in others if not _missing(value)]
        if not _missing(own) and known:
            better.append(own > max(known))
    return sum(better) / len(better) if better else math.nan


def _figure(value: float | None) -> str:
    return "n/a" if _missing(value) else f"{value:.3f}"
