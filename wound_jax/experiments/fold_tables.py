"""How a leave-one-out is shown and written: aligned text and CSV files."""

import math
from collections.abc import Sequence
from pathlib import Path

from wound_jax.evaluation.metrics import METRICS
from wound_jax.evaluation.table import SHOWN_METRICS
from wound_jax.experiments.fold_figures import UNITS, FoldFigures
from wound_jax.experiments.fold_scores import POPULATION_METRICS
from wound_jax.experiments.text import aligned, shown_figure, shown_interval, write_csv

_BY_FOLD = ("pearson_delta", "e_distance_ratio")


def write_folds(figures: FoldFigures, folder: Path) -> str:
    """Writes `figures.csv`, `folds.csv` and `table.txt`, and returns the text of the last."""
    write_csv(folder / "figures.csv", list(figures.rows()))
    write_csv(folder / "folds.csv", list(figures.fold_rows()))
    text = render(figures)
    (folder / "table.txt").write_text(text + "\n")
    return text


def render(figures: FoldFigures) -> str:
    """A block for each headline metric, one for the populations, one by fold, and how to read."""
    blocks = [_metric_block(figures, metric) for metric in SHOWN_METRICS]
    blocks.append(_population_block(figures))
    blocks += [_fold_block(figures, metric) for metric in _BY_FOLD]
    return "\n\n".join([*blocks, "\n".join(_notes(figures))])


def _metric_block(figures: FoldFigures, metric: str) -> str:
    best = figures.best_baseline(metric)
    rows = [["", "mean over folds", "95 % interval", f"difference to {best}"]]
    order = sorted(
        figures.methods, key=lambda m: (m in figures.baselines, _gap(figures, m, metric))
    )
    for method in order:
        value, sd = figures.draws.figure(method, metric), figures.seed_sd(method, metric)
        low, high = figures.draws.interval(method, metric)
        gap = figures.draws.difference(method, best, metric)
        rows.append(
            [
                method,
                shown_figure(metric, value) + ("" if math.isnan(sd) else f" ± {sd:.2g}"),
                "" if math.isnan(low) else f"[{low:.3f}, {high:.3f}]",
                "" if method == best else shown_interval(metric, *gap),
            ]
        )
    ceiling = figures.ceiling(metric)
    if not math.isnan(ceiling):
        rows.append(["ceiling", shown_figure(metric, ceiling), "", ""])
    return "\n".join([f"{metric} {METRICS[metric].arrow}", *aligned(rows)])


def _gap(figures: FoldFigures, method: str, metric: str) -> float:
    value = figures.draws.figure(method, metric)
    return math.inf if math.isnan(value) else abs(value - (METRICS[metric].best_value or 0.0))


def _population_block(figures: FoldFigures) -> str:
    rows = [["", *POPULATION_METRICS]]
    for method in figures.methods:
        values = [figures.draws.figure(method, metric) for metric in POPULATION_METRICS]
        rows.append([method, *("n/a" if math.isnan(v) else f"{v:.3f}" for v in values)])
    rows.append(["ceiling", *(f"{figures.ceiling(metric):.3f}" for metric in POPULATION_METRICS)])
    title = "populations: spread (1), gene-gene correlation (1), shares of zeros (0) as measured"
    return "\n".join([title, *aligned(rows)])


def _fold_block(figures: FoldFigures, metric: str) -> str:
    tables = [fold.methods() for fold in figures.folds]
    rows = [["", *(fold.label for fold in figures.folds)]]
    for method in figures.methods:
        values = [table[method].get(metric, math.nan) for table in tables]
        rows.append([method, *(shown_figure(metric, value) for value in values)])
    return "\n".join([f"{metric} by fold", *aligned(rows)])


def _notes(figures: FoldFigures) -> Sequence[str]:
    seeds = len(next(iter(figures.folds[0].variants.values())).seeds)
    notes = [
        f"{len(figures.folds)} folds ({UNITS[figures.leave_out]}), {seeds} seeds; ± sd over seeds; "
        "a positive difference is a better figure",
        "network: one seed, mean over seeds. ensemble: cells of all seeds averaged. + linear: the "
        "mean of each stratum drawn towards the linear rules and, where the config says so, "
        "regressed on noise in its controls. + genes: towards what is learnt across genes, for "
        "unknown types. + zeros: rounded to counts",
        f"intervals: {figures.draws.values.shape[-1]} draws of folds; the best baseline is chosen "
        "on the scored cells, which flatters it",
    ]
    for name in figures.folds[0].variants:
        found = [fold.variants[name].rules_weight for fold in figures.folds]
        weights = [f"{weight:.2f}" for weight in found if weight is not None]
        if weights:
            notes.append(f"{name}: share of the rules by fold: {', '.join(weights)}")
    return notes
