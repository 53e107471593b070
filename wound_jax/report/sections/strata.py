"""Scores by cell type and timepoint: where the model works and where it does not."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wound_jax.report.blocks import Block, Column, Figure, Fold, Section, Table, variant_column
from wound_jax.report.figures.drawing import Panel
from wound_jax.report.figures.rows import Field, draw_heat_map, draw_type_bars, type_legend
from wound_jax.report.load import RunResult, Study, Variant
from wound_jax.report.scores import finite
from wound_jax.report.words import (
    is_ranked,
    lower_is_better,
    metric_heading,
    metric_help,
    metric_name,
    number,
)

_MAPS = ("pearson_delta", "e_distance_ratio")
_READING = {
    "pearson_delta": "1 is perfect, 0 is the identity",
    "e_distance_ratio": "0 is perfect, 1 is the identity",
}
_NO_TIMEPOINT = "all"
# Beyond it a mark stands at the edge: a collapsed prediction would press all others together.
_LIMITS = {"e_distance_ratio": 1.5}
TYPES_LOOK = (
    "The model is worth its cost in the cell types where its bar passes every mark: longer for the "
    "correlation, shorter for the distance. Marks at 1.5 of the distance lie there or beyond."
)


def strata_section(study: Study) -> Section:
    """Heat maps of each variant, the table behind them, and the groups left out."""
    blocks: list[Block] = _figures(study)
    if len(study.variants) == 1:
        bars = Figure(type_panels(study.runs), TYPES_LOOK, type_legend(methods_of(study.runs)))
        blocks.append(Fold("All methods by cell type", [bars]))
    blocks.append(Fold("All figures by cell type and timepoint", [_table(study)]))
    skipped = _skipped(study)
    if skipped.rows:
        n = len(skipped.rows)
        title = f"Left out for too few cells: {n} group{'s' if n > 1 else ''}"
        blocks.append(Fold(title, [skipped]))
    return Section("strata", "By cell type and timepoint", blocks)


def natural(label: str) -> list[tuple[int, Any]]:
    """Sorting key that puts day 2 before day 10."""
    parts = re.split(r"(\d+)", label)
    return [(0, int(part)) if part.isdigit() else (1, part.lower()) for part in parts]


def _figures(study: Study) -> list[Block]:
    """The maps: of one variant side by side, of several a figure a metric."""
    hint = (
        "Rows or columns that are pale or orange are no better than the identity. A small "
        "triangle marks fields where the model beats the best baseline of that field."
    )
    if len(study.variants) == 1:
        (one,) = study.variants
        panels = [
            _map(one, metric, metric_name(metric).capitalize(), f"{_READING[metric]}; ")
            for metric in _MAPS
        ]
        return [Figure(panels, hint)]
    return [
        Figure(
            [_map(variant, metric, variant.name, "") for variant in study.variants],
            f"{metric_name(metric).capitalize()}: {_READING[metric]}. {hint}",
        )
        for metric in _MAPS
    ]


def methods_of(runs: Sequence[RunResult]) -> list[str]:
    """The model and the baselines of the strata, in the order of the results."""
    strata = (stratum for run in runs for stratum in run.result["strata"])
    return list(dict.fromkeys(["model", *(name for s in strata for name in s["baselines"])]))


def type_panels(runs: Sequence[RunResult]) -> list[Panel]:
    """Bars by cell type of one variant, means over its timepoints and seeds."""
    strata = [stratum for run in runs for stratum in run.result["strata"]]
    types = sorted({stratum["cell_type"] for stratum in strata}, key=natural)
    panels = []
    for metric in _MAPS:
        scores = {
            method: [
                _mean(_score(s, method, metric) for s in strata if s["cell_type"] == one)
                for one in types
            ]
            for method in methods_of(runs)
        }
        title, limit = metric_name(metric), _LIMITS.get(metric, math.inf)
        panels.append(draw_type_bars(title, _READING[metric], types, scores, limit))
    return panels


def _score(stratum: Mapping[str, Any], method: str, metric: str) -> float | None:
    scores = stratum["model"] if method == "model" else stratum["baselines"].get(method, {})
    return scores.get(metric)


def _map(variant: Variant, metric: str, title: str, reading: str) -> Panel:
    grouped = _by_field(variant)
    fields = {key: _field(strata, metric) for key, strata in grouped.items()}
    rows = sorted({row for row, _ in fields}, key=natural)
    for one in variant.shown.result.get("skipped") or ():
        row, column = _key(one, _several(variant))
        # A type without any scored timepoint stays in the list of what was left out.
        if row in rows:
            note = f"{one['n_control']} control, {one['n_treated']} treated cells: too few to score"
            fields.setdefault((row, column), Field(math.nan, 0.0, note))
    n = len(variant.runs)
    seeds = f", mean of {n} seeds" if n > 1 else ""
    return draw_heat_map(
        title,
        f"{reading}n = {len(grouped)} groups{seeds}",
        rows,
        sorted({column for _, column in fields}, key=natural),
        fields,
    )


def _several(variant: Variant) -> bool:
    """Whether there is more than one perturbation, which the columns must then name."""
    return len({s.get("perturbation") for s in variant.shown.result["strata"]}) > 1


def _key(stratum: Mapping[str, Any], several: bool) -> tuple[str, str]:
    timepoint = str(stratum.get("timepoint") or _NO_TIMEPOINT)
    column = f"{stratum.get('perturbation')} {timepoint}" if several else timepoint
    return str(stratum["cell_type"]), column


def _by_field(variant: Variant) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """The strata of all seeds by their field of the map."""
    several = _several(variant)
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for run in variant.runs:
        for stratum in run.result["strata"]:
            found.setdefault(_key(stratum, several), []).append(stratum)
    return found


def _field(strata: Sequence[Mapping[str, Any]], metric: str) -> Field:
    """Mean over the seeds of one stratum's score."""
    value = _mean(s["model"].get(metric) for s in strata)
    names = dict.fromkeys(name for s in strata for name in s["baselines"])
    rivals = {n: _mean(s["baselines"].get(n, {}).get(metric) for s in strata) for n in names}
    # 1 for a perfect score and 0 for that of the identity, on both metrics.
    good = {n: _goodness(v, metric) for n, v in rivals.items() if not math.isnan(v)}
    best = max(good, key=lambda name: good[name], default=None)
    own = _goodness(value, metric)
    one = strata[0]
    note = f"model {number(value)}; {one['n_control']} control, {one['n_treated']} treated cells"
    if best is not None:
        note += f"; best baseline {best} {number(rivals[best])}"
    beats = best is not None and own > good[best]
    return Field(value, max(-1.0, min(1.0, own)), note, beats)


def _goodness(value: float, metric: str) -> float:
    return 1.0 - abs(value) if lower_is_better(metric) else value


def _mean(values: Any) -> float:
    defined = finite(values)
    return float(np.mean(defined)) if defined.size else math.nan


def _table(study: Study) -> Table:
    """Every stratum of every run."""
    names = dict.fromkeys(
        name for run in study.runs for s in run.result["strata"] for name in s["model"]
    )
    metrics = [name for name in names if is_ranked(name)] or list(names)
    rows = [
        {
            "cell_type": stratum["cell_type"],
            "timepoint": stratum.get("timepoint"),
            "perturbation": stratum.get("perturbation"),
            "variant": variant.name,
            "seed": run.seed,
            "n_control": stratum["n_control"],
            "n_treated": stratum["n_treated"],
            "n_control_replicates": stratum.get("n_control_replicates"),
            "n_treated_replicates": stratum.get("n_treated_replicates"),
            **{name: stratum["model"].get(name) for name in metrics},
        }
        for variant in study.variants
        for run in variant.runs
        for stratum in run.result["strata"]
    ]
    columns = [
        *_keys(),
        variant_column(study),
        Column("seed", "seed"),
        *_sizes(),
        Column("n_control_replicates", "control replicates", "number"),
        Column("n_treated_replicates", "treated replicates", "number"),
        *(Column(n, metric_heading(n), "number", metric_help(n)) for n in metrics),
    ]
    return Table(
        "strata", "One line for each group of cells and run; the model only.", columns, rows
    )


def _skipped(study: Study) -> Table:
    """Groups that no run scored, each once."""
    found: dict[tuple, Mapping[str, Any]] = {}
    for run in study.runs:
        for one in run.result.get("skipped") or []:
            found.setdefault(tuple(one.values()), one)
    look = "These groups are in no figure of this page."
    return Table("skipped", look, [*_keys(), *_sizes()], list(found.values()))


def _keys() -> list[Column]:
    return [
        Column("cell_type", "cell type"),
        Column("timepoint", "timepoint"),
        Column("perturbation", "condition"),
    ]


def _sizes() -> list[Column]:
    return [
        Column("n_control", "control cells", "number"),
        Column("n_treated", "treated cells", "number"),
    ]
