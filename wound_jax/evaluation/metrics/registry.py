"""Metrics by name: what is measured, which way is better, what it cannot see; and scoring by them.

Owns the registry that scoring, tables, intervals and the report page go by, and `score_all`. A
metric is one function with a docstring (first line: what it is; then the formula, its source, its
traps), in a module of this package or in a user's own:

    @metric("mine", best_value=1.0)
    def mine(comparison: Comparison) -> float: ...

`metric` gives a number of one stratum; `set_metric` gives one number a stratum from all strata in
one call, because it compares strata with each other or because one call is faster.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from wound_jax.data.strata import Stratum
from wound_jax.errors import UserError
from wound_jax.evaluation.context import ScoreContext
from wound_jax.evaluation.metrics.comparison import Comparison, Comparisons, RealStratum
from wound_jax.registry import Registry

Direction = Literal["higher", "lower", "nearer"]
OfStratum = Callable[[Comparison], float]
OfSet = Callable[[Comparisons], Sequence[float] | np.ndarray]


@dataclass(frozen=True)
class Metric:
    """A registered metric.

    Attributes:
        name: key in the results.
        best_value: the value of a perfect prediction; None for a figure that methods are not
            ranked by.
        direction: whether higher or lower values are better, or those nearer to `best_value`;
            None for a figure that is not ranked.
        function: what it was made from; its docstring is the documentation.
        compute: one number a stratum, from all comparisons.
        trap: what is wrong with it where a worthless prediction does well; empty otherwise.
    """

    name: str
    best_value: float | None
    direction: Direction | None
    function: Callable
    compute: OfSet
    trap: str = ""

    @property
    def arrow(self) -> str:
        """Which way is better: up, down, or towards a value; empty for an unranked figure."""
        if self.direction is None or self.best_value is None:
            return ""
        return {"higher": "↑", "lower": "↓", "nearer": f"→{self.best_value:g}"}[self.direction]

    @property
    def doc(self) -> str:
        """The whole documentation."""
        return inspect.getdoc(self.function) or ""

    @property
    def summary(self) -> str:
        """The first line of the documentation."""
        return self.doc.partition("\n")[0]

    def goodness(self, value: float) -> float:
        """The value on a scale where more is better; NaN for a figure that is not ranked."""
        if self.direction is None or self.best_value is None:
            return float("nan")
        if self.direction == "nearer":
            return -abs(value - self.best_value)
        return value if self.direction == "higher" else -value


METRICS = Registry[Metric]("metric", package="wound_jax.evaluation.metrics")


def metric(
    name: str, best_value: float | None, *, direction: Direction | None = None, trap: str = ""
) -> Callable[[OfStratum], OfStratum]:
    """Decorator: registers a function of one stratum's comparison.

    Args:
        name: key in the results.
        best_value: see `Metric`.
        direction: see `Metric`; by default higher is better for a positive `best_value`, lower
            for 0.
        trap: see `Metric`.
    """

    def register(function: OfStratum) -> OfStratum:
        def compute(comparisons: Comparisons) -> list[float]:
            return [function(comparison) for comparison in comparisons]

        way = _direction(best_value, direction)
        entry = Metric(name, best_value, way, function, compute, trap)
        METRICS.add(name, entry, function.__module__)
        return function

    return register


def set_metric(
    name: str, best_value: float | None, *, direction: Direction | None = None, trap: str = ""
) -> Callable[[OfSet], OfSet]:
    """Decorator: registers a function of all comparisons; arguments as for `metric`."""

    def register(function: OfSet) -> OfSet:
        way = _direction(best_value, direction)
        entry = Metric(name, best_value, way, function, function, trap)
        METRICS.add(name, entry, function.__module__)
        return function

    return register


def score_all(
    strata: Sequence[Stratum],
    predictions: Sequence[Float[np.ndarray, "_cells genes"]],
    context: ScoreContext,
    names: Sequence[str] | None = None,
    *,
    known: Mapping[Stratum, RealStratum] | None = None,
) -> list[dict[str, float]]:
    """Metrics of the predictions of one method, all of them or those that are named.

    Args:
        strata: the real cells, at least one treated in each.
        predictions: for each stratum [n_control, genes], row i made from control cell i.
        context: from `fit_context` on the training cells.
        names: of registered metrics; None computes all.
        known: what metrics have computed from the real cells of some strata (distances among
            them, their ranks); given again for every method, so that it is computed once.

    Returns:
        For each stratum, in their order: metric name -> value; NaN where a metric is not defined.

    Raises:
        UserError: a prediction is missing, has the wrong shape or values that are not finite, or
            a stratum has no treated cells to compare with.
    """
    if len(strata) != len(predictions):
        raise UserError(
            f"{len(predictions)} predictions for {len(strata)} strata; expected one for each."
        )
    for stratum, predicted in zip(strata, predictions, strict=True):
        _check(stratum, predicted)
    real = [(known or {}).get(stratum) or RealStratum(stratum, context) for stratum in strata]
    comparisons = Comparisons([Comparison(*one) for one in zip(real, predictions, strict=True)])
    chosen = METRICS if names is None else names
    values = {name: METRICS.get(name).compute(comparisons) for name in chosen}
    return [{name: float(of[i]) for name, of in values.items()} for i in range(len(strata))]


def _check(stratum: Stratum, predicted: Float[np.ndarray, "cells genes"]) -> None:
    if predicted.shape != stratum.control.shape:
        raise UserError(
            f"stratum {stratum.key}: prediction of shape {predicted.shape}; expected "
            f"{stratum.control.shape}, one row for each control cell."
        )
    if not np.isfinite(predicted).all():
        raise UserError(
            f"stratum {stratum.key}: the prediction holds NaN or infinity; expected finite values. "
            "Take a checkpoint from before training diverged."
        )
    if not stratum.n_treated:
        raise UserError(
            f"stratum {stratum.key} has no treated cells to compare with; expected at least one. "
            "Score only strata with cells in both arms."
        )


def _direction(best_value: float | None, given: Direction | None) -> Direction | None:
    if best_value is None:
        return None
    return given or ("higher" if best_value > 0 else "lower")
