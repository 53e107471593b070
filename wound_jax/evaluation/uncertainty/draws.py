"""Draws of a bootstrap: figures of every method in every draw, their intervals and differences.

Owns differences and their sign, positive where the first is better, and which draws may be paired:
those of the same held-out units under the same seed.

The interval of a figure is the percentiles of its draws, moved to the figure and stretched by
Student's t:

    low  = figure + t / z (q_low  - centre)         q     percentiles of the draws
    high = figure + t / z (q_high - centre)         t, z  quantiles of Student's t and the normal

The move: a draw repeats some units, so its means are noisier than those of as many different ones,
which lowers every correlation and raises every distance, of all methods; the figure itself may lie
outside of the plain percentiles. The stretch: with few units the spread of the draws is uncertain
in turn (survey practice: t with units less pools degrees of freedom; Rao and Wu 1988, J. Am. Stat.
Assoc. 83, 231-241). With many units both vanish.

How often the 95 % interval of a mean covers it, in %, simulated:

    units                                 2    3    4    8   12   3 pools of 2
    normal                               91   93   92   95   94   90
    exponential                          85   87   86   90   92   85
    plain percentiles of n of n, normal  51   74   79   89   91   70

The four headline figures and their differences, on simulated mice of which 1, 2 or 3 a day and arm
are held out on three days: 91 to 98, 91 to 100 and 92 to 100.

With 3 replicates a draw has 6 outcomes. The interval then reaches nearly four standard errors to
each side; read it as a warning, and not its ends as figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri, stdtrit

from wound_jax.errors import UserError, unknown_name
from wound_jax.evaluation.metrics import METRICS
from wound_jax.files import read_arrays, write_arrays


def stretched_interval(
    figure: float, draws: Float[np.ndarray, " draws"], degrees: int, level: float
) -> tuple[float, float]:
    """Low and high of a figure, by the formula of the module.

    Args:
        figure: its value on the sample itself.
        draws: its value in each draw; draws in which it is not defined (NaN) are left out.
        degrees: degrees of freedom, the units less the pools they are drawn in.
        level: share of samples whose interval is to hold the truth.

    Returns:
        The interval; NaN without degrees of freedom or without a defined value.
    """
    defined = draws[np.isfinite(draws)]
    if not len(defined) or not degrees:
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    # A mean that no single draw can carry away, as a ratio to next to nothing would.
    centre = np.clip(defined, low, high).mean()
    stretch = stdtrit(degrees, 1 - tail) / ndtri(1 - tail)
    return float(figure + stretch * (low - centre)), float(figure + stretch * (high - centre))


MODEL = "model"


# What the figures can be; intervals end there.
_RANGES = {
    "pearson_delta": (-1.0, 1.0),
    "pearson_delta_top100": (-1.0, 1.0),
    "mse": (0.0, np.inf),
}


class Difference(NamedTuple):
    """A difference of two figures and its interval; positive where the first one is better."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Draws:
    """Figures in every draw.

    Attributes:
        methods: names, the model's is "model".
        metrics: names.
        units: what was drawn: "replicates", "strata", "cells", or what a table's rows are.
        n_units: how many there are.
        degrees: degrees of freedom: the units less the pools they were drawn in.
        note: how they were drawn, in words.
        fingerprint: of the held-out units and the seed; draws of one fingerprint are paired.
        values: [methods, metrics, draws]; NaN where a figure is not defined in a draw.
        point: [methods, metrics], the figures themselves.
    """

    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    units: str
    n_units: int
    degrees: int
    note: str
    fingerprint: str
    values: Float[np.ndarray, "methods metrics draws"]
    point: Float[np.ndarray, "methods metrics"]

    def figure(self, method: str, metric: str) -> float:
        """The figure itself."""
        return float(self.point[self._place(method, metric)])

    def interval(self, method: str, metric: str, level: float = 0.95) -> tuple[float, float]:
        """The interval of one figure; the module says what it covers.

        Args:
            method: name.
            metric: name.
            level: share of samples of units in which it is to hold.

        Returns:
            Low and high, within what the metric can be; NaN where the figure is not defined or
            there is a single unit.
        """
        place = self._place(method, metric)
        ends = stretched_interval(self.point[place], self.values[place], self.degrees, level)
        low, high = np.clip(ends, *_RANGES.get(metric, (-np.inf, np.inf)))
        return float(low), float(high)

    def difference(self, method: str, other: str, metric: str, level: float = 0.95) -> Difference:
        """How much better one method is than another, paired draw by draw."""
        return self._less(self._place(method, metric), self, self._place(other, metric), level)

    def best_baseline(self, metric: str) -> str:
        """The method other than the model whose figure is nearest to the metric's best value.

        It is chosen on the cells that are scored, so that it is flattered, never the model.

        Raises:
            UserError: no baseline has the figure, or the metric is not ranked.
        """
        gaps = self._gaps_of_baselines(metric)
        if not gaps:
            raise UserError(
                f"no baseline has {metric}; expected one to compare with. There are: "
                f"{', '.join(self.methods)}."
            )
        return min(gaps, key=gaps.__getitem__)

    def summary(self) -> dict[str, Any]:
        """The content of "uncertainty" in `eval/metrics.json`.

        Returns:
            "units", "n_units", "draws", "note"; "intervals": {method: {metric: [low, high]}};
            "differences" of the model to the best baseline, positive where the model is better:
            {metric: {"best_baseline", "value", "low", "high"}}. NaN where not defined.
        """
        differences = {}
        for metric in self.metrics:
            if not self._gaps_of_baselines(metric):
                continue
            name = self.best_baseline(metric)
            difference = self.difference(MODEL, name, metric)
            differences[metric] = {"best_baseline": name, **difference._asdict()}
        return {
            "units": self.units,
            "n_units": self.n_units,
            "draws": self.values.shape[-1],
            "note": self.note,
            "intervals": {
                method: {metric: list(self.interval(method, metric)) for metric in self.metrics}
                for method in self.methods
            },
            "differences": differences,
        }

    def save(self, path: Path | str) -> None:
        """Writes an npz file, without pickles."""
        arrays: dict[str, Any] = {f.name: np.asarray(getattr(self, f.name)) for f in fields(self)}
        write_arrays(path, arrays)

    @classmethod
    def load(cls, path: Path | str) -> "Draws":
        """Reads what `save` wrote.

        Raises:
            UserError: there is no such file, or it is not one of bootstrap draws.
        """
        if not Path(path).is_file():
            raise UserError(f"{path}: no such file; expected the draws that an evaluation writes.")
        read = read_arrays(Path(path))
        missing = [field.name for field in fields(cls) if field.name not in read]
        if missing:
            raise UserError(
                f"{path} lacks {', '.join(missing)}; expected the draws of a bootstrap. "
                "Evaluate the run again."
            )
        plain = {name: value.item() for name, value in read.items() if value.ndim == 0}
        names = {name: tuple(map(str, read[name])) for name in ("methods", "metrics")}
        return cls(**{**read, **plain, **names})

    def _place(self, method: str, metric: str) -> tuple[int, int]:
        if method not in self.methods:
            raise unknown_name("method", method, self.methods)
        if metric not in self.metrics:
            raise unknown_name("metric of the bootstrap", metric, self.metrics)
        return self.methods.index(method), self.metrics.index(metric)

    def _gaps_of_baselines(self, metric: str) -> dict[str, float]:
        """How far each baseline that has the metric is from its best value."""
        best = _best_value(metric)
        gaps = {m: abs(self.figure(m, metric) - best) for m in self.methods if m != MODEL}
        return {name: gap for name, gap in gaps.items() if not np.isnan(gap)}

    def _less(
        self, place: tuple[int, int], other: "Draws", there: tuple[int, int], level: float
    ) -> Difference:
        """This figure less another one, signed so that positive is better."""
        sign = 1.0 if METRICS.get(self.metrics[place[1]]).direction == "higher" else -1.0
        value = sign * float(self.point[place] - other.point[there])
        draws = sign * (self.values[place] - other.values[there])
        return Difference(value, *stretched_interval(value, draws, self.degrees, level))


def average(draws: Sequence[Draws]) -> Draws:
    """The mean over seeds of one model, figure by figure and draw by draw.

    Its interval is that of the mean figure with other replicates; the spread between seeds is not
    in it, and belongs beside it.

    Args:
        draws: one for each seed, on the same held-out units, with the same methods and metrics.

    Raises:
        UserError: there are none, or they differ in their units, methods or metrics.
    """
    if not draws:
        raise UserError("no draws to average; expected those of one seed at least.")
    for other in draws[1:]:
        _require_paired(draws[0], other)
        if (other.methods, other.metrics) != (draws[0].methods, draws[0].metrics):
            raise UserError(
                f"methods and metrics differ: {other.methods}, {other.metrics} and "
                f"{draws[0].methods}, {draws[0].metrics}; expected the same. Evaluate all seeds "
                "with the same baselines."
            )
    return replace(
        draws[0],
        values=np.mean([one.values for one in draws], axis=0),
        point=np.mean([one.point for one in draws], axis=0),
    )


def between(
    first: Draws, second: Draws, metric: str, *, method: str = MODEL, level: float = 0.95
) -> Difference:
    """How much better the model of one variant is than that of another, paired draw by draw.

    Args:
        first: draws of one variant (`average` of its seeds).
        second: draws of the other, on the same held-out units.
        metric: name.
        method: which method of both is compared.
        level: of the interval.

    Raises:
        UserError: the units differ.
    """
    _require_paired(first, second)
    place, there = first._place(method, metric), second._place(method, metric)
    return first._less(place, second, there, level)


def _require_paired(one: Draws, other: Draws) -> None:
    """Refuses draws of different units."""
    if one.fingerprint != other.fingerprint or one.values.shape[-1] != other.values.shape[-1]:
        described = [f"{d.values.shape[-1]} draws of {d.n_units} {d.units}" for d in (one, other)]
        raise UserError(
            f"{described[0]} and {described[1]} are not draws of the same held-out cells under one "
            "seed, so they cannot be paired. Compare runs that hold out the same cells, evaluated "
            "with the same settings."
        )


def _best_value(metric: str) -> float:
    best = METRICS.get(metric).best_value
    if best is None:
        raise UserError(f"{metric} is not ranked; expected a metric that has a best value.")
    return best
