"""Figures of a leave-one-out: means over folds, their intervals, differences to the best baseline.

    figure = mean over folds (mean over the strata of a fold)

A fold counts once, however many strata or cells it holds. Intervals are those of other folds: folds
share training cells and are not quite independent, so they are a little short.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from wound_jax.evaluation.metrics import get_metric
from wound_jax.evaluation.table import SHOWN_METRICS
from wound_jax.evaluation.uncertainty import Draws, bootstrap_units
from wound_jax.experiments.fold_scores import METRICS, VariantScores

UNITS = {"cell_type": "cell types", "replicate": "replicates", "timepoint": "timepoints"}

_DRAWS = 2000


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
                found[f"{name}: {form}"] = {m: _mean(t[m] for t in tables) for m in tables[0]}
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
        """Variants in all their forms, then the baselines."""
        return tuple(self.folds[0].methods())

    @property
    def baselines(self) -> tuple[str, ...]:
        """The baselines, without the ceiling."""
        return tuple(name for name in self.folds[0].baselines if name != "ceiling")

    @cached_property
    def draws(self) -> Draws:
        """Figures of every method in every draw of folds."""
        tables = [fold.methods() for fold in self.folds]
        values = {
            metric: np.array([[t[m].get(metric, math.nan) for m in self.methods] for t in tables])
            for metric in METRICS
        }
        names = [fold.label for fold in self.folds]
        units = UNITS[self.leave_out]
        return bootstrap_units(
            values, self.methods, names, units=units, draws=_DRAWS, seed=self.seed
        )

    def ceiling(self, metric: str) -> float:
        """What real cells of the same kind reach, over the folds where that is known."""
        known = [fold.baselines["ceiling"] for fold in self.folds if "ceiling" in fold.baselines]
        return _mean(table.get(metric, math.nan) for table in known)

    def best_baseline(self, metric: str) -> str:
        """The baseline nearest to the best value; chosen on what is scored, so flattered."""
        best = get_metric(metric).best_value or 0.0
        return min(self.baselines, key=lambda m: abs(self.draws.figure(m, metric) - best))

    def seed_sd(self, method: str, metric: str) -> float:
        """Standard deviation over seeds of the mean over folds; NaN for methods without seeds."""
        variant, _, form = method.partition(": ")
        if method in self.baselines or form not in self.folds[0].variants[variant].seeds[0]:
            return math.nan
        tables = [
            [s[form].get(metric, math.nan) for s in f.variants[variant].seeds] for f in self.folds
        ]
        means = np.mean(tables, axis=0)
        return float(np.std(means, ddof=1)) if len(means) > 1 else math.nan

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row for each method and metric."""
        for metric in METRICS:
            best = self.best_baseline(metric) if metric in SHOWN_METRICS else None
            for method in self.methods:
                low, high = self.draws.interval(method, metric)
                row = {
                    "method": method,
                    "metric": metric,
                    "value": self.draws.figure(method, metric),
                    "low": low,
                    "high": high,
                    "sd_over_seeds": self.seed_sd(method, metric),
                    "best_baseline": best,
                }
                if best is not None:
                    gap = self.draws.difference(method, best, metric)
                    row |= {"difference": gap.value, "difference_low": gap.low}
                    row |= {"difference_high": gap.high}
                yield row

    def fold_rows(self) -> Iterator[dict[str, Any]]:
        """One row for each fold, method and metric."""
        for fold in self.folds:
            ceiling = {"ceiling": fold.baselines["ceiling"]} if "ceiling" in fold.baselines else {}
            for method, table in {**fold.methods(), **ceiling}.items():
                for metric, value in table.items():
                    yield {
                        self.leave_out: fold.label,
                        "method": method,
                        "metric": metric,
                        "value": value,
                    }


def _mean(values: Any) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan
