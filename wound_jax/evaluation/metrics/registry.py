"""The registry of metrics: what is measured, which way is better, and what it cannot see.

Owns the list that scoring, tables, intervals and the report page go by. A metric is one function
with a docstring (first line: what it is; then the formula, its source, its traps), in a module of
this package:

    @metric("mine", best_value=1.0)
    def mine(comparison: Comparison) -> float: ...

`metric` gives a number of one stratum; `set_metric` gives one number a stratum from all strata in
one call, because it compares strata with each other or because one call is faster.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from wound_jax.errors import unknown_name
from wound_jax.evaluation.metrics.comparison import Comparison, Comparisons

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


METRICS: dict[str, Metric] = {}


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

        _add(Metric(name, best_value, _direction(best_value, direction), function, compute, trap))
        return function

    return register


def set_metric(
    name: str, best_value: float | None, *, direction: Direction | None = None, trap: str = ""
) -> Callable[[OfSet], OfSet]:
    """Decorator: registers a function of all comparisons; arguments as for `metric`."""

    def register(function: OfSet) -> OfSet:
        _add(Metric(name, best_value, _direction(best_value, direction), function, function, trap))
        return function

    return register


def get_metric(name: str) -> Metric:
    """The metric of that name; an unknown one is a `UserError` listing those there are."""
    if name not in METRICS:
        raise unknown_name("metric", name, METRICS)
    return METRICS[name]


def _direction(best_value: float | None, given: Direction | None) -> Direction | None:
    if best_value is None:
        return None
    return given or ("higher" if best_value > 0 else "lower")


def _add(entry: Metric) -> None:
    if entry.name in METRICS:
        raise ValueError(f"a metric named {entry.name!r} is registered already")
    METRICS[entry.name] = entry
