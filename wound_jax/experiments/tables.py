"""How a comparison is shown and written: aligned text, `comparison.json`, CSV files.

`comparison.json` names the runs, relative to its folder where they are inside it, so that the
folder can be moved; the report page is made from it and from the run folders.
"""

import json
import math
from pathlib import Path
from typing import Any

from wound_jax.evaluation.metrics import METRICS
from wound_jax.evaluation.table import SHOWN_METRICS
from wound_jax.experiments.figures import VariantFigures, variant_difference
from wound_jax.experiments.results import Comparison
from wound_jax.experiments.text import aligned, shown_figure, shown_interval, without_nan, write_csv
from wound_jax.experiments.variants import config_differences

# Figures of the training that are shown; all of them are in comparison.json.
_SHOWN_TRAINING = ("loss_cv", "spikes_per_1000", "best_loss", "improvement_on_identity")


def write_comparison(comparison: Comparison, folder: Path) -> str:
    """Writes `comparison.json`, the CSV files and `table.txt`, and returns the text of the last."""
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(without_nan(_content(comparison, folder)), indent=2, allow_nan=False)
    (folder / "comparison.json").write_text(content + "\n")
    write_csv(folder / "comparison.csv", comparison.summary_rows())
    write_csv(folder / "differences.csv", comparison.difference_rows())
    write_csv(folder / "strata.csv", comparison.stratum_rows())
    text = render(comparison)
    (folder / "table.txt").write_text(text + "\n")
    return text


def render(comparison: Comparison) -> str:
    """The comparison as text: a block for each shown metric, the variants, the warnings."""
    blocks = [
        _metric_block(comparison, metric)
        for metric in SHOWN_METRICS
        if metric in comparison.metrics
    ]
    blocks.append(_variant_block(comparison))
    blocks.append("\n".join([*_notes(comparison), *(f"! {w}" for w in comparison.warnings)]))
    return "\n\n".join(blocks)


def _content(comparison: Comparison, folder: Path) -> dict[str, Any]:
    first, by_name = comparison.variants[0], {r["variant"]: r for r in comparison.variant_rows()}
    variants = []
    for one in comparison.variants:
        differences = config_differences(first.of.config, one.of.config)
        row = by_name[one.name]
        variants.append(
            {
                "name": one.name,
                "runs": [_place(run.folder, folder) for run in one.runs],
                "seeds": row["seeds"],
                "diff": {d.key: [d.a, d.b] for d in differences},
                "parameters": {"trainable": row["trainable"], "total": row["total"]},
                "training_seconds": row["seconds"],
                "training": {name: row[name] for name in one.training_names},
            }
        )
    return {
        "name": comparison.name,
        "variants": variants,
        "warnings": comparison.warnings,
        "table": comparison.summary_rows(),
    }


def _place(run: Path, folder: Path) -> str:
    run, folder = run.resolve(), folder.resolve()
    return str(run.relative_to(folder) if run.is_relative_to(folder) else run)


def _metric_block(comparison: Comparison, metric: str) -> str:
    """One metric: model | best baseline | paired difference with interval | ceiling."""
    first = comparison.variants[0]
    several = len(comparison.variants) > 1
    head = ["", "model", "best baseline", "difference", "ceiling"]
    rows = [[*head, f"difference to {first.name}"] if several else head]
    for one in comparison.variants:
        model, name, gap = one.model(metric), one.best_baseline(metric), one.over_baseline(metric)
        row = [
            one.name,
            shown_figure(metric, model.mean)
            + ("" if math.isnan(model.sd) else f" ± {model.sd:.2g}"),
            f"{shown_figure(metric, one.baseline(name, metric))} {name}" if name else "n/a",
            shown_interval(metric, gap.value, gap.low, gap.high),
            shown_figure(metric, one.ceiling(metric)),
        ]
        rows.append([*row, _against(one, first, metric)] if several else row)
    entry = METRICS.get(metric)
    title = f"{metric} {entry.arrow if entry else ''}".rstrip()
    return "\n".join([title, *aligned(rows)])


def _against(one: VariantFigures, first: VariantFigures, metric: str) -> str:
    if one is first:
        return ""
    gap = variant_difference(one, first, metric)
    return shown_interval(metric, gap.value, gap.low, gap.high)


def _variant_block(comparison: Comparison) -> str:
    """What each variant trains, how long it takes, how smoothly."""
    rows = comparison.variant_rows()
    shown = [name for name in _SHOWN_TRAINING if any(name in row for row in rows)]
    table = [["", "seeds", "trained parameters", "of all", "seconds a run", *shown]]
    for row in rows:
        figures = [row.get(name, math.nan) for name in shown]
        table.append(
            [
                row["variant"],
                str(len(row["seeds"])),
                f"{row['trainable']:,}",
                f"{100 * row['trainable'] / max(row['total'], 1):.1f} %",
                "n/a" if math.isnan(row["seconds"]) else f"{row['seconds']:.0f}",
                *("n/a" if math.isnan(value) else f"{value:.3g}" for value in figures),
            ]
        )
    return "\n".join(aligned(table))


def _notes(comparison: Comparison) -> list[str]:
    lines = [
        "means over strata and seeds, ± sd over seeds; a positive difference is a better figure"
    ]
    draws = [one.draws for one in comparison.variants if one.draws is not None]
    if draws:
        lines.append(
            f"intervals: 95 %, {draws[0].values.shape[-1]} bootstrap draws; {draws[0].note}"
        )
    return lines
