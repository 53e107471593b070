"""Figures of one variant over its seeds, and how much better they are than other ones.

    model(metric) = mean over seeds of the mean over strata, with the sd over seeds beside it
    difference    = how much better, positive where the first is; its interval is the bootstrap's
                    over held-out replicates, draws averaged over seeds and paired

Seeds and replicates are two sources of chance: the sd says how far another start would lead, the
interval how far other replicates would. Neither holds the other.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from wound_jax.evaluation.metrics import METRICS
from wound_jax.evaluation.uncertainty import Difference, Draws, average, between
from wound_jax.experiments.finished import FinishedRun, FinishedVariant

NAN = math.nan


class Spread(NamedTuple):
    """Mean and standard deviation over seeds; the latter NaN for a single one."""

    mean: float
    sd: float


@dataclass(frozen=True, eq=False)
class VariantFigures:
    """What the runs of one variant reached.

    Args:
        of: its runs.
    """

    of: FinishedVariant

    @property
    def name(self) -> str:
        """Its name."""
        return self.of.name

    @property
    def runs(self) -> tuple[FinishedRun, ...]:
        """Its runs."""
        return self.of.runs

    @cached_property
    def draws(self) -> Draws | None:
        """The bootstrap draws, averaged over seeds; None where a run has none or they differ."""
        draws = [run.draws for run in self.runs]
        found = [one for one in draws if one is not None]
        if len(found) < len(draws) or len({_kind_of(one) for one in found}) > 1:
            return None
        return average(found)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of all runs, in the order of the evaluation."""
        return tuple(dict.fromkeys(name for run in self.runs for name in run.summary["model"]))

    @property
    def baselines(self) -> tuple[str, ...]:
        """The baselines of all runs."""
        return tuple(dict.fromkeys(name for run in self.runs for name in run.summary["baselines"]))

    def model(self, metric: str) -> Spread:
        """The model's figure."""
        return spread(run.summary["model"].get(metric) for run in self.runs)

    def baseline(self, name: str, metric: str) -> float:
        """A baseline's figure; it is the same for all seeds, as it is fitted on the same cells."""
        scores = [run.summary["baselines"].get(name, {}) for run in self.runs]
        return spread(score.get(metric) for score in scores).mean

    def ceiling(self, metric: str) -> float:
        """What other replicates reach, or halves of the data: the most that can be expected."""
        scores = [run.summary.get("ceiling") or {} for run in self.runs]
        return spread(score.get(metric) for score in scores).mean

    def interval(self, metric: str) -> tuple[float, float]:
        """The interval of the model's figure, with other replicates."""
        if self.draws is None or metric not in self.draws.metrics:
            return NAN, NAN
        return self.draws.interval("model", metric)

    def best_baseline(self, metric: str) -> str | None:
        """The baseline nearest to the metric's best value; None where there is none."""
        best = METRICS[metric].best_value if metric in METRICS else None
        if best is None:
            return None
        gaps = {name: abs(self.baseline(name, metric) - best) for name in self.baselines}
        known = {name: gap for name, gap in gaps.items() if not math.isnan(gap)}
        return min(known, key=known.__getitem__) if known else None

    def over_baseline(self, metric: str) -> Difference:
        """How much better the model is than the best baseline."""
        name = self.best_baseline(metric)
        if name is None:
            return Difference(NAN, NAN, NAN)
        if self.draws is not None and metric in self.draws.metrics and name in self.draws.methods:
            return self.draws.difference("model", name, metric)
        value = goodness(metric, self.model(metric).mean)
        return Difference(value - goodness(metric, self.baseline(name, metric)), NAN, NAN)

    def training(self, name: str) -> Spread:
        """A figure of the training ("loss_cv", "spikes_per_1000", ...)."""
        return spread((run.result.get("training") or {}).get(name) for run in self.runs)

    @property
    def training_names(self) -> tuple[str, ...]:
        """The figures of the training that are numbers, in the order of the evaluation."""
        records: list[Mapping[str, Any]] = [run.result.get("training") or {} for run in self.runs]
        return tuple(
            dict.fromkeys(
                name
                for record in records
                for name, value in record.items()
                if isinstance(value, int | float) and not isinstance(value, bool)
            )
        )

    @property
    def seconds(self) -> Spread:
        """Seconds of training of one run."""
        return spread(run.seconds for run in self.runs)

    def parameters(self, which: str) -> int:
        """How many parameters are "trainable", or there in "total"."""
        return sum(self.runs[0].parameters[which].values())


class SeedDifference(NamedTuple):
    """How much better one variant is than another.

    Attributes:
        value: the difference of the means over seeds.
        low: of its interval over held-out replicates, NaN where the draws cannot be paired.
        high: likewise.
        sd: of the differences of runs with the same seed; NaN below two of them.
        seeds: how many such pairs there are.
    """

    value: float
    low: float
    high: float
    sd: float
    seeds: int


def variant_difference(one: VariantFigures, other: VariantFigures, metric: str) -> SeedDifference:
    """How much better `one` is than `other`, positive where it is."""
    value = goodness(metric, one.model(metric).mean) - goodness(metric, other.model(metric).mean)
    low, high = NAN, NAN
    first, second = one.draws, other.draws
    if first is not None and second is not None and _are_paired(first, second, metric):
        value, low, high = between(first, second, metric)
    there = {run.config.seed: run for run in other.runs}
    pairs = [
        _run_goodness(run, metric) - _run_goodness(there[run.config.seed], metric)
        for run in one.runs
        if run.config.seed in there
    ]
    return SeedDifference(value, low, high, spread(pairs).sd, len(pairs))


def goodness(metric: str, value: float) -> float:
    """A figure on a scale where more is better; NaN for one that is not ranked."""
    return METRICS[metric].goodness(value) if metric in METRICS else NAN


def spread(values: Iterable[float | None]) -> Spread:
    """Mean and sd of the values that are defined; NaN without any."""
    known = [float(v) for v in values if v is not None and not math.isnan(v)]
    if not known:
        return Spread(NAN, NAN)
    return Spread(float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else NAN)


def _run_goodness(run: FinishedRun, metric: str) -> float:
    value = run.summary["model"].get(metric)
    return NAN if value is None else goodness(metric, value)


def _are_paired(one: Draws, other: Draws, metric: str) -> bool:
    units = [(d.fingerprint, d.values.shape[-1]) for d in (one, other)]
    return units[0] == units[1] and metric in one.metrics and metric in other.metrics


def _kind_of(draws: Draws) -> tuple:
    """What the draws of seeds must have in common to be averaged."""
    return draws.fingerprint, draws.values.shape[-1], draws.methods, draws.metrics
