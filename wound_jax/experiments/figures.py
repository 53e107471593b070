"""Figures of an experiment: over the seeds of a variant, and over the folds of a leave-one-out.

    variant   figure = mean over seeds (mean over strata), its interval that of other replicates
    fold      figure = mean over folds (mean over the strata of a fold), its interval that of other
              folds; a fold counts once, however many strata or cells it holds
    sd        over seeds: how far another start would lead. No interval holds it
    difference  how much better, positive where the first is; its interval is paired draw by draw

Folds share training cells and are not quite independent, so their intervals are a little short. The
best baseline is chosen on what is scored, so it is flattered.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from wound_jax.evaluation.metrics import METRICS
from wound_jax.evaluation.uncertainty import Difference, Draws, average, between, bootstrap_units
from wound_jax.experiments.finished import FinishedRun
from wound_jax.experiments.scores import METRICS as FOLD_METRICS
from wound_jax.experiments.scores import VariantScores

NAN = math.nan
# What is drawn anew for the interval of a leave-one-out.
UNITS = {"cell_type": "cell types", "replicate": "replicates", "timepoint": "timepoints"}
_DRAWS = 2000


class Spread(NamedTuple):
    """Mean and standard deviation over seeds; the latter NaN for a single one."""

    mean: float
    sd: float


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


def spread(values: Iterable[float | None]) -> Spread:
    """Mean and sd of the values that are defined; NaN without any."""
    known = [float(v) for v in values if v is not None and not math.isnan(v)]
    if not known:
        return Spread(NAN, NAN)
    return Spread(float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else NAN)


def goodness(metric: str, value: float) -> float:
    """A figure on a scale where more is better; NaN for one that is not ranked."""
    return METRICS.get(metric).goodness(value) if metric in METRICS else NAN


def nearest(metric: str, figures: Mapping[str, float]) -> str | None:
    """The name of the figure nearest to the metric's best value; None where there is none."""
    best = METRICS.get(metric).best_value if metric in METRICS else None
    if best is None:
        return None
    gaps = {name: abs(value - best) for name, value in figures.items() if not math.isnan(value)}
    return min(gaps, key=gaps.__getitem__) if gaps else None


@dataclass(frozen=True, eq=False)
class VariantFigures:
    """What the finished runs of one variant reached.

    Attributes:
        name: its name in the comparison.
        runs: at least one; they differ in nothing but their seed.
    """

    name: str
    runs: Sequence[FinishedRun]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of its runs."""
        return tuple(run.config.seed for run in self.runs)

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
        names = dict.fromkeys(name for run in self.runs for name in run.summary["baselines"])
        return nearest(metric, {name: self.baseline(name, metric) for name in names})

    def over_baseline(self, metric: str) -> Difference:
        """How much better the model is than the best baseline."""
        name = self.best_baseline(metric)
        if name is None:
            return Difference(NAN, NAN, NAN)
        if self.draws is not None and metric in self.draws.metrics and name in self.draws.methods:
            return self.draws.difference("model", name, metric)
        value = goodness(metric, self.model(metric).mean)
        return Difference(value - goodness(metric, self.baseline(name, metric)), NAN, NAN)

    def over(self, other: "VariantFigures", metric: str) -> SeedDifference:
        """How much better this variant is than another, positive where it is."""
        value = goodness(metric, self.model(metric).mean)
        value -= goodness(metric, other.model(metric).mean)
        low, high = NAN, NAN
        first, second = self.draws, other.draws
        if first is not None and second is not None and _are_paired(first, second, metric):
            value, low, high = between(first, second, metric)
        there = {run.config.seed: run for run in other.runs}
        pairs = [
            _run_goodness(run, metric) - _run_goodness(there[run.config.seed], metric)
            for run in self.runs
            if run.config.seed in there
        ]
        return SeedDifference(value, low, high, spread(pairs).sd, len(pairs))

    @property
    def training(self) -> dict[str, float]:
        """Figures of the training that are numbers, in the order of the evaluation."""
        names = dict.fromkeys(
            name
            for run in self.runs
            for name, value in run.training.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        )
        return {name: spread(run.training.get(name) for run in self.runs).mean for name in names}

    @property
    def seconds(self) -> float:
        """Seconds of training of one run."""
        return spread(run.seconds for run in self.runs).mean

    def parameters(self, which: str) -> int:
        """How many parameters are "trainable", or there in "total"."""
        return sum(self.runs[0].parameters[which].values())


@dataclass(frozen=True, eq=False)
class FoldScores:
    """What one fold found.

    Attributes:
        label: what was held out.
        baselines: method -> metric -> mean over strata; "ceiling" among them, where there is one.
        variants: scores of each variant.
    """

    label: str
    baselines: Mapping[str, Mapping[str, float]]
    variants: Mapping[str, VariantScores]

    def methods(self) -> dict[str, Mapping[str, float]]:
        """Every method of the fold; of forms that each seed has, the mean over seeds."""
        found: dict[str, Mapping[str, float]] = {}
        for name, scores in self.variants.items():
            for form in scores.seeds[0]:
                tables = [seed[form] for seed in scores.seeds]
                found[f"{name}: {form}"] = {m: spread(t[m] for t in tables).mean for m in tables[0]}
            found |= {f"{name}: {form}": table for form, table in scores.together.items()}
        return found | {n: table for n, table in self.baselines.items() if n != "ceiling"}


@dataclass(frozen=True, eq=False)
class FoldFigures:
    """All folds of a leave-one-out.

    Attributes:
        leave_out: what was left out.
        folds: the folds, at least one.
        seed: of the draws.
    """

    leave_out: str
    folds: Sequence[FoldScores]
    seed: int = 42

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Variants in all their forms, then the baselines that every fold has."""
        return tuple(name for name in self.folds[0].methods() if name not in self.left_out)

    @property
    def left_out(self) -> dict[str, list[str]]:
        """The baselines that some fold left out, and which folds did."""
        every = dict.fromkeys(n for fold in self.folds for n in fold.baselines if n != "ceiling")
        without = {n: [f.label for f in self.folds if n not in f.baselines] for n in every}
        return {name: folds for name, folds in without.items() if folds}

    @property
    def baselines(self) -> tuple[str, ...]:
        """The baselines, without the ceiling."""
        names = (name for name in self.folds[0].baselines if name != "ceiling")
        return tuple(name for name in names if name not in self.left_out)

    @cached_property
    def draws(self) -> Draws:
        """Figures of every method in every draw of folds."""
        tables = [fold.methods() for fold in self.folds]
        values = {
            metric: np.array([[t[m].get(metric, NAN) for m in self.methods] for t in tables])
            for metric in FOLD_METRICS
        }
        names = [fold.label for fold in self.folds]
        units = UNITS[self.leave_out]
        return bootstrap_units(
            values, self.methods, names, units=units, draws=_DRAWS, seed=self.seed
        )

    def ceiling(self, metric: str) -> float:
        """What real cells of the same kind reach, over the folds where that is known."""
        return spread(fold.baselines.get("ceiling", {}).get(metric) for fold in self.folds).mean

    def best_baseline(self, metric: str) -> str | None:
        """The baseline nearest to the metric's best value; None where there is none."""
        return nearest(metric, {name: self.draws.figure(name, metric) for name in self.baselines})

    def over(self, method: str, other: str | None, metric: str) -> Difference:
        """How much better a method is than another one, such as the best baseline."""
        if other is None:
            return Difference(NAN, NAN, NAN)
        return self.draws.difference(method, other, metric)

    def seed_sd(self, method: str, metric: str) -> float:
        """Standard deviation over seeds of the mean over folds; NaN for methods without seeds."""
        variant, _, form = method.partition(": ")
        if method in self.baselines or form not in self.folds[0].variants[variant].seeds[0]:
            return NAN
        tables = [[s[form].get(metric, NAN) for s in f.variants[variant].seeds] for f in self.folds]
        means = np.mean(tables, axis=0)
        return float(np.std(means, ddof=1)) if len(means) > 1 else NAN


def _run_goodness(run: FinishedRun, metric: str) -> float:
    value = run.summary["model"].get(metric)
    return NAN if value is None else goodness(metric, value)


def _are_paired(one: Draws, other: Draws, metric: str) -> bool:
    units = [(d.fingerprint, d.values.shape[-1]) for d in (one, other)]
    return units[0] == units[1] and metric in one.metrics and metric in other.metrics


def _kind_of(draws: Draws) -> tuple:
    """What the draws of seeds must have in common to be averaged."""
    return draws.fingerprint, draws.values.shape[-1], draws.methods, draws.metrics
