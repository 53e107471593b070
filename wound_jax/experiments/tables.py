"""Tables of an experiment: CSV files, `comparison.json`, and aligned text for people.

`comparison.json` names the runs, relative to its folder where they are inside it, so that the
folder can be moved; the report page is made from it and from the run folders.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wound_jax.errors import named
from wound_jax.evaluation.files import without_nan
from wound_jax.evaluation.metrics import METRICS
from wound_jax.evaluation.table import SHOWN_METRICS, aligned, shown_figure
from wound_jax.experiments.figures import UNITS, FoldFigures, VariantFigures
from wound_jax.experiments.plan import config_differences
from wound_jax.experiments.rows import VariantTable, fold_rows, method_rows
from wound_jax.experiments.scores import POPULATION_METRICS
from wound_jax.files import inert, make_folder, replacing, write_text

# Figures of the training that are shown; all of them are in comparison.json.
_SHOWN_TRAINING = ("loss_cv", "spikes_per_1000", "best_loss", "improvement_on_identity")
_SHOWN_BY_FOLD = ("pearson_delta", "e_distance_ratio")


def write_comparison(table: VariantTable, folder: Path) -> str:
    """Writes `comparison.json`, the CSV files and `table.txt`, and returns the text of the last."""
    make_folder(folder)
    content = {
        "name": table.name,
        "variants": [_variant_content(one, table.variants[0], folder) for one in table.variants],
        "warnings": table.warnings,
        "table": table.summary_rows(),
    }
    text = json.dumps(without_nan(content), indent=2, allow_nan=False)
    write_text(folder / "comparison.json", text + "\n")
    _write_csv(folder / "comparison.csv", table.summary_rows())
    _write_csv(folder / "differences.csv", table.difference_rows())
    _write_csv(folder / "strata.csv", table.stratum_rows())
    return _write_table(folder, render_comparison(table))


def write_folds(figures: FoldFigures, folder: Path) -> str:
    """Writes `figures.csv`, `folds.csv` and `table.txt`, and returns the text of the last."""
    _write_csv(folder / "figures.csv", list(method_rows(figures)))
    _write_csv(folder / "folds.csv", list(fold_rows(figures)))
    return _write_table(folder, render_folds(figures))


def render_comparison(table: VariantTable) -> str:
    """A block for each shown metric, one for the variants, the notes and the warnings."""
    blocks = [_metric_block(table, name) for name in SHOWN_METRICS if name in table.metrics]
    blocks.append(_variant_block(table.variants))
    draws = [one.draws for one in table.variants if one.draws is not None]
    notes = [
        "means over strata and seeds, ± sd over seeds; a positive difference is a better figure",
        *(
            f"intervals: 95 %, {one.values.shape[-1]} bootstrap draws; {one.note}"
            for one in draws[:1]
        ),
        *(f"! {warning}" for warning in table.warnings),
    ]
    return "\n\n".join([*blocks, "\n".join(notes)])


def render_folds(figures: FoldFigures) -> str:
    """A block for each headline metric, one for the populations, one by fold, and how to read."""
    blocks = [_method_block(figures, metric) for metric in SHOWN_METRICS]
    blocks.append(_population_block(figures))
    blocks += [_fold_block(figures, metric) for metric in _SHOWN_BY_FOLD]
    return "\n\n".join([*blocks, "\n".join(_fold_notes(figures))])


def _variant_content(one: VariantFigures, first: VariantFigures, folder: Path) -> dict:
    differences = config_differences(first.runs[0].config, one.runs[0].config)
    return {
        "name": one.name,
        "runs": [_place(run.folder.resolve(), folder.resolve()) for run in one.runs],
        "seeds": one.seeds,
        "diff": {d.key: [d.a, d.b] for d in differences},
        "parameters": {which: one.parameters(which) for which in ("trainable", "total")},
        "training_seconds": one.seconds,
        "training": one.training,
    }


def _place(run: Path, folder: Path) -> str:
    return str(run.relative_to(folder) if run.is_relative_to(folder) else run)


def _metric_block(table: VariantTable, metric: str) -> str:
    """One metric: model | best baseline | paired difference with interval | ceiling."""
    first, *others = table.variants
    head = ["", "model", "best baseline", "difference", "ceiling"]
    rows = [[*head, f"difference to {first.name}"] if others else head]
    for one in table.variants:
        name, ceiling = one.best_baseline(metric), one.ceiling(metric)
        row = [
            one.name,
            _with_sd(metric, *one.model(metric)),
            f"{shown_figure(metric, one.baseline(name, metric))} {name}" if name else "n/a",
            _with_interval(metric, *one.over_baseline(metric)),
            shown_figure(metric, ceiling),
        ]
        if others:
            row.append("" if one is first else _with_interval(metric, *one.over(first, metric)[:3]))
        rows.append(row)
    return "\n".join([_title(metric), *aligned(rows)])


def _variant_block(variants: Sequence[VariantFigures]) -> str:
    """What each variant trains, how long it takes, how smoothly."""
    shown = [name for name in _SHOWN_TRAINING if any(name in one.training for one in variants)]
    table = [["", "seeds", "trained parameters", "of all", "seconds a run", *shown]]
    for one in variants:
        trained, total = one.parameters("trainable"), one.parameters("total")
        table.append(
            [
                one.name,
                str(len(one.seeds)),
                f"{trained:,}",
                f"{100 * trained / max(total, 1):.1f} %",
                _shown(one.seconds, ".0f"),
                *(_shown(one.training.get(name, math.nan), ".3g") for name in shown),
            ]
        )
    return "\n".join(aligned(table))


def _method_block(figures: FoldFigures, metric: str) -> str:
    """One metric: every method with its interval and its difference to the best baseline."""
    best = figures.best_baseline(metric)
    rows = [["", "mean over folds", "95 % interval", f"difference to {best}"]]
    order = sorted(
        figures.methods, key=lambda m: (m in figures.baselines, _gap(figures, m, metric))
    )
    for method in order:
        low, high = figures.draws.interval(method, metric)
        rows.append(
            [
                method,
                _with_sd(
                    metric, figures.draws.figure(method, metric), figures.seed_sd(method, metric)
                ),
                "" if math.isnan(low) else f"[{low:.3f}, {high:.3f}]",
                ""
                if method == best
                else _with_interval(metric, *figures.over(method, best, metric)),
            ]
        )
    ceiling = figures.ceiling(metric)
    if not math.isnan(ceiling):
        rows.append(["ceiling", shown_figure(metric, ceiling), "", ""])
    return "\n".join([_title(metric), *aligned(rows)])


def _gap(figures: FoldFigures, method: str, metric: str) -> float:
    value = figures.draws.figure(method, metric)
    return math.inf if math.isnan(value) else abs(value - (METRICS.get(metric).best_value or 0.0))


def _population_block(figures: FoldFigures) -> str:
    rows = [["", *POPULATION_METRICS]]
    for method in figures.methods:
        values = [figures.draws.figure(method, metric) for metric in POPULATION_METRICS]
        rows.append([method, *(_shown(value, ".3f") for value in values)])
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


def _fold_notes(figures: FoldFigures) -> Sequence[str]:
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
    notes += [
        f"left out: {name}, whose predictions are implausible with {named(folds)} held out"
        for name, folds in figures.left_out.items()
    ]
    for name in figures.folds[0].variants:
        found = [fold.variants[name].rules_weight for fold in figures.folds]
        weights = [f"{weight:.2f}" for weight in found if weight is not None]
        if weights:
            notes.append(f"{name}: share of the rules by fold: {', '.join(weights)}")
    return notes


def _title(metric: str) -> str:
    arrow = METRICS.get(metric).arrow if metric in METRICS else ""
    return f"{metric} {arrow}".rstrip()


def _with_sd(metric: str, mean: float, sd: float) -> str:
    return shown_figure(metric, mean) + ("" if math.isnan(sd) else f" ± {sd:.2g}")


def _with_interval(metric: str, value: float, low: float, high: float) -> str:
    """A difference with its sign and, where there is one, its interval."""
    if math.isnan(value):
        return "n/a"
    value = value if round(value, 5) else 0.0
    shown = f"{'+' if value >= 0 else ''}{shown_figure(metric, value)}"
    if math.isnan(low) or math.isnan(high):
        return shown
    return f"{shown} [{shown_figure(metric, low)}, {shown_figure(metric, high)}]"


def _shown(value: float, digits: str) -> str:
    return "n/a" if math.isnan(value) else format(value, digits)


def _write_table(folder: Path, text: str) -> str:
    write_text(folder / "table.txt", text + "\n")
    return text


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows with the columns of the first; figures that are not defined stay empty."""
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        # None is written as an empty cell.
        writer.writerows({k: inert(v) for k, v in without_nan(row).items()} for row in rows)
