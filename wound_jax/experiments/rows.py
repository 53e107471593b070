"""Rows of the tables of an experiment: plain mappings, one a line of a CSV file.

Two views: variants side by side, the first of which the others are set beside, and the folds of a
leave-one-out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from wound_jax.evaluation.table import SHOWN_METRICS
from wound_jax.experiments.figures import FoldFigures, VariantFigures, goodness, spread
from wound_jax.experiments.finished import FinishedRun
from wound_jax.experiments.scores import METRICS

Row = dict[str, Any]
# Below it the spread between seeds is hardly known.
FEW_SEEDS = 3


@dataclass(frozen=True, eq=False)
class VariantTable:
    """Variants side by side.

    Attributes:
        name: of the comparison.
        variants: at least one; the first is the one that others are set beside.
        notes: what was found on the way: differences that were allowed, runs that failed.
    """

    name: str
    variants: Sequence[VariantFigures]
    notes: Sequence[str] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """All metrics, in the order of the evaluation."""
        return tuple(dict.fromkeys(name for one in self.variants for name in one.metrics))

    def summary_rows(self) -> list[Row]:
        """One row a metric and variant: model, best baseline, difference, ceiling."""
        return [_summary_row(one, m) for m in self.metrics for one in self.variants]

    def difference_rows(self) -> list[Row]:
        """One row a metric, variant and what it is set beside: its best baseline, the first."""
        first = self.variants[0]
        return [
            row
            for metric in self.metrics
            for one in self.variants
            for row in _difference_rows(one, first, metric)
        ]

    def stratum_rows(self) -> list[Row]:
        """One row a variant, stratum and metric."""
        return [row for one in self.variants for row in _stratum_rows(one)]

    @cached_property
    def warnings(self) -> list[str]:
        """What a reader must know before the figures."""
        lines = list(self.notes)
        runs = [run for one in self.variants for run in one.runs]
        if any(run.result["split"]["leaky"] for run in runs):
            lines.append("LEAKY: test cells share replicates with training cells; figures flatter.")
        for one in self.variants:
            if len(one.runs) < FEW_SEEDS:
                lines.append(
                    f"{one.name}: {len(one.runs)} of at least {FEW_SEEDS} seeds, so the spread "
                    "between seeds is hardly known."
                )
            if one.draws is None:
                lines.append(
                    f"{one.name}: no intervals; its runs have no bootstrap draws of one kind."
                )
        return lines + _code_warnings(runs)


def method_rows(figures: FoldFigures) -> Iterator[Row]:
    """One row for each metric and method, the figures of all folds."""
    for metric in METRICS:
        shown = metric in SHOWN_METRICS
        best = figures.best_baseline(metric) if shown else None
        for method in figures.methods:
            low, high = figures.draws.interval(method, metric)
            row = {
                "method": method,
                "metric": metric,
                "value": figures.draws.figure(method, metric),
                "low": low,
                "high": high,
                "sd_over_seeds": figures.seed_sd(method, metric),
                "best_baseline": best,
            }
            if shown:
                gap = figures.over(method, best, metric)
                row |= {"difference": gap.value, "difference_low": gap.low}
                row |= {"difference_high": gap.high}
            yield row


def fold_rows(figures: FoldFigures) -> Iterator[Row]:
    """One row for each fold, method and metric."""
    for fold in figures.folds:
        ceiling = {"ceiling": fold.baselines["ceiling"]} if "ceiling" in fold.baselines else {}
        for method, table in {**fold.methods(), **ceiling}.items():
            for metric, value in table.items():
                yield {
                    figures.leave_out: fold.label,
                    "method": method,
                    "metric": metric,
                    "value": value,
                }


def _summary_row(one: VariantFigures, metric: str) -> Row:
    model, name, gap = one.model(metric), one.best_baseline(metric), one.over_baseline(metric)
    low, high = one.interval(metric)
    return {
        "metric": metric,
        "variant": one.name,
        "seeds": len(one.runs),
        "model": model.mean,
        "model_sd": model.sd,
        "model_low": low,
        "model_high": high,
        "best_baseline": name,
        "baseline": one.baseline(name, metric) if name else None,
        "difference": gap.value,
        "difference_low": gap.low,
        "difference_high": gap.high,
        "ceiling": one.ceiling(metric),
        "units": one.draws.units if one.draws else None,
        "n_units": one.draws.n_units if one.draws else None,
    }


def _difference_rows(one: VariantFigures, first: VariantFigures, metric: str) -> Iterator[Row]:
    row = {"metric": metric, "variant": one.name}
    name = one.best_baseline(metric)
    if name:
        gap = one.over_baseline(metric)._asdict()
        yield {**row, "kind": "baseline", "against": name, **gap, "seed_sd": None, "seeds": None}
    if one is not first:
        gap = one.over(first, metric)
        yield {
            **row,
            "kind": "variant",
            "against": first.name,
            "value": gap.value,
            "low": gap.low,
            "high": gap.high,
            "seed_sd": gap.sd,
            "seeds": gap.seeds,
        }


def _stratum_rows(one: VariantFigures) -> Iterator[Row]:
    """Strata of all runs; the best baseline is that of the mean over strata, the same for all."""
    strata: dict[tuple, list[dict]] = {}
    for run in one.runs:
        for stratum in run.result["strata"]:
            key = stratum["cell_type"], stratum["timepoint"], stratum.get("perturbation")
            strata.setdefault(key, []).append(stratum)
    for (cell_type, timepoint, perturbation), of_seeds in strata.items():
        for metric in one.metrics:
            name = one.best_baseline(metric)
            model = spread(s["model"].get(metric) for s in of_seeds)
            baseline = spread(s["baselines"].get(name, {}).get(metric) for s in of_seeds).mean
            yield {
                "variant": one.name,
                "cell_type": cell_type,
                "timepoint": timepoint,
                "perturbation": perturbation,
                "n_control": of_seeds[0]["n_control"],
                "n_treated": of_seeds[0]["n_treated"],
                "metric": metric,
                "model": model.mean,
                "model_sd": model.sd,
                "best_baseline": name,
                "baseline": baseline,
                "difference": goodness(metric, model.mean) - goodness(metric, baseline),
                "ceiling": spread((s.get("ceiling") or {}).get(metric) for s in of_seeds).mean,
            }


def _code_warnings(runs: Sequence[FinishedRun]) -> list[str]:
    """Says so where runs were made by different code or versions."""
    found: dict[str, set[str]] = {}
    for run in runs:
        versions = run.provenance.get("versions") or {}
        for name, value in {"commit": run.provenance.get("commit"), **versions}.items():
            found.setdefault(name, set()).add(str(value))
    return [
        f"the runs were made with different {name}: {', '.join(sorted(values))}."
        for name, values in found.items()
        if len(values) > 1
    ]
