"""The headline numbers of a variant: model, best baseline, their difference, noise ceiling.

Means over seeds. A comparison's own table decides where there is one, so that page and table say
the same. What is not in it comes from the evaluations: intervals of one run as its evaluation gives
them, of several from their bootstrap draws averaged draw by draw, so that the interval is that of
the mean over seeds on other replicates.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from wound_jax.evaluation.uncertainty import Draws, average, between
from wound_jax.report.load import RunResult, Study, Variant
from wound_jax.report.words import goodness, is_ranked

# Shown first, in this order; the other ranked metrics are folded away.
MAIN_METRICS = (
    "pearson_delta", "pearson_delta_top100", "e_distance_ratio", "mse", "type_retrieval",
    "sign_share", "type_kept",
)  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval.

    Attributes:
        value: NaN where it is not defined.
        low: lower end; None without an interval.
        high: upper end.
    """

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def metrics_of(study: Study) -> list[str]:
    """The ranked metrics that any run has, main ones first."""
    found = dict.fromkeys(name for run in study.runs for name in _means(run, "model"))
    ranked = [name for name in found if is_ranked(name)]
    main = [name for name in MAIN_METRICS if name in ranked]
    return main + [name for name in ranked if name not in main]


def baselines_of(variant: Variant) -> list[str]:
    """Names of the baselines, in the order of the results."""
    return list(
        dict.fromkeys(n for run in variant.runs for n in run.part("summary").get("baselines", {}))
    )


def method_score(variant: Variant, method: str, metric: str) -> Estimate:
    """The mean over seeds of a method's summary, with its interval.

    Args:
        variant: whose runs.
        method: "model", "ceiling" or the name of a baseline.
        metric: which figure.
    """
    row = variant.rows.get(metric, {})
    if method == "model" and row:
        return _estimate(row.get("model"), row.get("model_low"), row.get("model_high"))
    value = _mean(_means(run, method).get(metric) for run in variant.runs)
    draws = _draws(variant)
    if draws is not None and method in draws.methods and metric in draws.metrics:
        return _estimate(value, *draws.interval(method, metric))
    if len(variant.runs) == 1:
        intervals = variant.shown.part("uncertainty").get("intervals") or {}
        return _estimate(value, *((intervals.get(method) or {}).get(metric) or (None, None)))
    return Estimate(value)


def best_baseline(variant: Variant, metric: str) -> str | None:
    """The best baseline: the one that the comparison or evaluation named, else by the means."""
    named = variant.rows.get(metric) or _differences(variant).get(metric) or {}
    if named.get("best_baseline"):
        return named["best_baseline"]
    means = {name: method_score(variant, name, metric).value for name in baselines_of(variant)}
    good = {n: goodness(metric, value) for n, value in means.items() if not math.isnan(value)}
    return max(good, key=lambda name: good[name], default=None)


def difference(variant: Variant, metric: str) -> Estimate:
    """Model minus best baseline, turned so that a positive value means the model is better."""
    row = variant.rows.get(metric)
    if row:
        return _estimate(*(row.get(f"difference{end}") for end in ("", "_low", "_high")))
    rival = best_baseline(variant, metric)
    if rival is None:
        return Estimate(math.nan)
    draws = _draws(variant)
    if draws is not None and rival in draws.methods and metric in draws.metrics:
        return _estimate(*draws.difference("model", rival, metric))
    given = _differences(variant).get(metric)
    if given and len(variant.runs) == 1:
        return _estimate(given.get("value"), given.get("low"), given.get("high"))
    model, other = (method_score(variant, name, metric).value for name in ("model", rival))
    return Estimate(goodness(metric, model) - goodness(metric, other))


def versus(variant: Variant, other: Variant, metric: str) -> Estimate:
    """How much better one variant's model is than another's, paired over held-out replicates."""
    draws, others = _draws(variant), _draws(other)
    if draws is not None and others is not None and _are_paired(draws, others, metric):
        return _estimate(*between(draws, others, metric))
    values = [method_score(one, "model", metric).value for one in (variant, other)]
    return Estimate(goodness(metric, values[0]) - goodness(metric, values[1]))


def seed_values(variant: Variant, metric: str) -> dict[int | None, float]:
    """The model's figure of each seed."""
    found = {run.seed: _means(run, "model").get(metric) for run in variant.runs}
    return {seed: math.nan if value is None else value for seed, value in found.items()}


def best_variant(study: Study) -> Variant:
    """The variant of the highest correlation of deltas."""

    def score(variant: Variant) -> float:
        value = method_score(variant, "model", "pearson_delta").value
        return -math.inf if math.isnan(value) else value

    return max(study.variants, key=score)


@cache
def _draws(variant: Variant) -> Draws | None:
    """The bootstrap draws of a variant's seeds, averaged; None where they cannot be paired."""
    draws = [run.draws for run in variant.runs if run.draws is not None]
    alike = {(one.fingerprint, one.values.shape, one.methods, one.metrics) for one in draws}
    return average(draws) if len(draws) == len(variant.runs) and len(alike) == 1 else None


def _are_paired(one: Draws, other: Draws, metric: str) -> bool:
    """Whether two sets of draws are of the same held-out replicates and know the metric."""
    kinds = [(draws.fingerprint, draws.values.shape[-1]) for draws in (one, other)]
    return kinds[0] == kinds[1] and metric in one.metrics and metric in other.metrics


def _differences(variant: Variant) -> Mapping[str, Any]:
    return variant.shown.part("uncertainty").get("differences") or {}


def _means(run: RunResult, method: str) -> Mapping[str, float | None]:
    summary = run.part("summary")
    if method in ("model", "ceiling"):
        return summary.get(method) or {}
    return (summary.get("baselines") or {}).get(method) or {}


def _mean(values: Iterable[float | None]) -> float:
    defined = finite(values)
    return float(np.mean(defined)) if defined.size else math.nan


def _estimate(value: float | None, low: float | None, high: float | None) -> Estimate:
    """An estimate whose interval counts only where both of its ends are defined."""
    number = math.nan if value is None else float(value)
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return Estimate(number)
    return Estimate(number, float(low), float(high))


def finite(values: Iterable[float | None]) -> np.ndarray:
    """The defined values as an array."""
    found = np.array([math.nan if v is None else v for v in values], dtype=float)
    return found[np.isfinite(found)]
