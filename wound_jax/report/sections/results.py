"""Scorecard and results: the plan's criteria, and the model beside its baselines and ceiling."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wound_jax.report.blocks import (
    Block,
    Column,
    Figure,
    Fold,
    Note,
    Section,
    Table,
    absent,
    variant_column,
)
from wound_jax.report.figures.drawing import MUTED, PREDICTED, Panel, disc
from wound_jax.report.figures.rows import Ranked, draw_ranking
from wound_jax.report.load import Study, Variant
from wound_jax.report.scores import (
    MAIN_METRICS,
    Estimate,
    baselines_of,
    best_baseline,
    difference,
    method_score,
    metrics_of,
    seed_values,
    versus,
)
from wound_jax.report.words import (
    goodness,
    lower_is_better,
    method_name,
    metric_heading,
    metric_help,
    metric_name,
)

_CEILINGS = {
    "replicate": "treated cells of other replicates",
    "split-half": "one half of the treated cells against the other",
}
# Predictions far beyond the identity, as those of collapsed cells, are not drawn to scale.
_LIMITS = {"e_distance_ratio": 1.5}
_SCORECARD_LOOK = (
    "Each line is one criterion of the plan. A correlation passes only if the model also beats the "
    "best baseline; what the data at hand cannot decide says so and does not pass."
)
_DRAWN = ("pearson_delta", "e_distance_ratio")


def scorecard_section(study: Study) -> Section:
    """Verdicts of every variant, with figure, threshold, baseline and reason."""
    id, title = "scorecard", "Scorecard"
    judged = [variant for variant in study.variants if variant.shown.result.get("scorecard")]
    if not judged:
        return absent(id, title, "these evaluations have no scorecard.")
    if len(judged) == 1:
        return Section(
            id, title, [_lines(judged[0], "scorecard", _SCORECARD_LOOK + _seed(judged[0]))]
        )
    blocks: list[Block] = [_overview(judged)]
    blocks += [
        Fold(variant.name, [_lines(variant, f"scorecard_{place}", "Why, criterion by criterion.")])
        for place, variant in enumerate(judged, 1)
    ]
    missing = [v.name for v in study.variants if v not in judged]
    if missing:
        blocks.append(Note(f"Without scorecard: {', '.join(missing)}.", "absent"))
    return Section(id, title, blocks)


def passed(variant: Variant) -> tuple[int, int, int]:
    """Criteria that the shown run passes, fails, and that could not be computed."""
    verdicts = [line["verdict"] for line in variant.shown.result.get("scorecard") or ()]
    undecided = verdicts.count("cannot be computed")
    failed = verdicts.count("fail")
    return len(verdicts) - undecided - failed, failed, undecided


def _lines(variant: Variant, name: str, look: str) -> Table:
    """The whole scorecard of a variant's shown run."""
    columns = [
        Column("criterion", "criterion"),
        Column("verdict", "verdict", "verdict"),
        Column("figure", "figure", "number"),
        Column("threshold", "threshold"),
        Column("why", "why"),
        Column("baseline", "beside it", help="a baseline's figure, or another one to read it by"),
    ]
    rows = variant.shown.result["scorecard"]
    if len(variant.runs) > 1:
        columns.insert(2, Column("seeds", "seeds", help="how many seeds come to the same verdict"))
        rows = [{**line, "seeds": _agreeing(variant, line)} for line in rows]
    return Table(name, look, columns, rows)


def _overview(variants: list[Variant]) -> Table:
    """One verdict a criterion and variant."""
    criteria = list(
        dict.fromkeys(line["criterion"] for v in variants for line in v.shown.result["scorecard"])
    )
    verdicts = [
        {line["criterion"]: line["verdict"] for line in v.shown.result["scorecard"]}
        for v in variants
    ]
    columns = [Column("criterion", "criterion")]
    columns += [Column(str(i), v.name, "verdict") for i, v in enumerate(variants)]
    rows = [
        {"criterion": name, **{str(i): own.get(name) for i, own in enumerate(verdicts)}}
        for name in criteria
    ]
    return Table("scorecard", _SCORECARD_LOOK + _seed(variants[0]), columns, rows)


def _seed(variant: Variant) -> str:
    if len(variant.runs) == 1:
        return ""
    return " Of several seeds, the middle one by correlation of deltas is judged."


def _agreeing(variant: Variant, line: Mapping[str, Any]) -> str:
    """How many seeds come to the same verdict."""
    found = Counter(
        other["verdict"]
        for run in variant.runs
        for other in run.result.get("scorecard") or ()
        if other["criterion"] == line["criterion"]
    )
    return f"{found[line['verdict']]} of {len(variant.runs)}"


def results_section(study: Study) -> Section:
    """The table of the study, the ranking of all methods, and every mean behind it."""
    metrics = metrics_of(study)
    main = [metric for metric in metrics if metric in MAIN_METRICS]
    others = [metric for metric in metrics if metric not in MAIN_METRICS]
    blocks: list[Block] = [_results_table(study, "results", main), *_about_ceiling(study)]
    legend = [disc("model", PREDICTED), disc("baseline", MUTED)]
    look = (
        "The model is worth its cost where its dot lies beyond every grey one, and as near to the "
        f"noise ceiling as it can be. {_bars(study)}"
    )
    rankings = [_ranking(study, metric) for metric in _DRAWN if metric in metrics]
    panels = [panel for panel in rankings if panel is not None]
    if panels:
        blocks.append(Figure(panels, look, legend))
    if len(study.variants) > 1 and not _same_baselines(study):
        first = study.variants[0].name
        blocks.append(Note(f"Baselines differ between the variants; drawn are those of {first}."))
    if len(study.variants) > 1:
        blocks.append(_against_first(study, main))
    if others:
        blocks.append(Fold("Further metrics", [_results_table(study, "results_further", others)]))
    blocks.append(Fold("All methods and metrics", [_methods(study)]))
    return Section("results", "Model, baselines, noise ceiling", blocks)


def _results_table(study: Study, name: str, metrics: Sequence[str]) -> Table:
    """One line a metric and variant."""
    rows = [_row(variant, metric) for metric in metrics for variant in study.variants]
    columns = [
        Column("name", "metric", place="once"),
        variant_column(study),
        Column("model", "model", "number"),
        Column("baseline", "best baseline", "number"),
        Column(
            "difference",
            "difference",
            "interval",
            "turned so that a positive difference means the model is better; 95 % interval",
        ),
        Column("ceiling", "noise ceiling", "number", "what measured replicates reach"),
        Column("baseline_name", "which baseline"),
        Column("seed_sd", "sd over seeds", "number"),
        Column("metric", "name in the files", place="file"),
    ]
    if all(len(variant.runs) == 1 for variant in study.variants):
        columns = [column for column in columns if column.key != "seed_sd"]
    look = (
        "A difference whose whole interval is above zero says the model beats the best baseline; "
        "positive is better for every metric. Means over groups of cells, each counting alike."
    )
    return Table(name, look, columns, rows)


def _about_ceiling(study: Study) -> list[Block]:
    """How the ceiling was estimated, and in how many groups of cells."""
    kinds = Counter(s.get("ceiling_kind") for s in study.variants[0].shown.result["strata"])
    told = [
        f"{_CEILINGS.get(kind, kind)} in {n} of {kinds.total()} groups"
        for kind, n in kinds.items()
        if kind
    ]
    return [Note(f"The noise ceiling is the score of {'; '.join(told)}.")] if told else []


def _row(variant: Variant, metric: str) -> dict:
    rival = best_baseline(variant, metric)
    gap = difference(variant, metric)
    seeds = list(seed_values(variant, metric).values())
    return {
        "name": metric_heading(metric),
        "metric": metric,
        "variant": variant.name,
        "model": method_score(variant, "model", metric).value,
        "seed_sd": float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None,
        "baseline": method_score(variant, rival, metric).value if rival else None,
        "baseline_name": method_name(rival),
        "difference": gap.value,
        "difference_low": gap.low,
        "difference_high": gap.high,
        "ceiling": method_score(variant, "ceiling", metric).value,
    }


def _against_first(study: Study, metrics: Sequence[str]) -> Table:
    """One line a metric and variant but the first, set beside the first."""
    first, *others = study.variants
    rows = [_versus(variant, first, metric) for metric in metrics for variant in others]
    columns = [
        Column("name", "metric", place="once"),
        Column("variant", "variant"),
        Column("difference", "difference", "interval", "positive where the variant is better"),
        Column("seed_sd", "sd over pairs of seeds", "number", "of runs with the same seed"),
        Column("pairs", "pairs", "number"),
        Column("first", "against", place="file"),
        Column("metric", "name in the files", place="file"),
    ]
    look = (
        f"How much better each variant is than {first.name}: one whose whole interval is above "
        "zero would be better on other replicates too, as far as these can tell."
    )
    return Table("variants", look, columns, rows)


def _versus(variant: Variant, first: Variant, metric: str) -> dict:
    gap = versus(variant, first, metric)
    own, other = seed_values(variant, metric), seed_values(first, metric)
    pairs = [goodness(metric, own[s]) - goodness(metric, other[s]) for s in own if s in other]
    return {
        "name": metric_heading(metric),
        "metric": metric,
        "variant": variant.name,
        "first": first.name,
        "difference": gap.value,
        "difference_low": gap.low,
        "difference_high": gap.high,
        "seed_sd": float(np.std(pairs, ddof=1)) if len(pairs) > 1 else None,
        "pairs": len(pairs),
    }


def _ranking(study: Study, metric: str) -> Panel | None:
    """Variants first, then the baselines of the first variant, best first; None without a value."""
    first = study.variants[0]
    several = len(study.variants) > 1
    rows = [
        _ranked(v.name if several else "model", method_score(v, "model", metric), True)
        for v in study.variants
    ]
    others = [
        _ranked(method_name(name), method_score(first, name, metric), False)
        for name in baselines_of(first)
    ]
    downwards = lower_is_better(metric)
    others.sort(key=lambda row: row.value if downwards else -row.value)
    shown = [row for row in [*rows, *others] if not math.isnan(row.value)]
    if not shown:
        return None
    ceiling = method_score(first, "ceiling", metric).value
    n = len(first.shown.result["strata"])
    return draw_ranking(
        metric_name(metric),
        f"{'lower' if downwards else 'higher'} is better; mean over n = {n} groups of cells",
        shown,
        None if math.isnan(ceiling) else ceiling,
        1.0 if metric == "e_distance_ratio" else 0.0,
        _LIMITS.get(metric, math.inf),
    )


def _ranked(name: str, estimate: Estimate, model: bool) -> Ranked:
    return Ranked(name, estimate.value, estimate.low, estimate.high, model)


def _same_baselines(study: Study) -> bool:
    """Whether the baselines of all variants score alike, as on the same cells and space they do."""
    first, *others = study.variants
    return all(
        math.isclose(
            method_score(first, name, metric).value,
            method_score(other, name, metric).value,
            rel_tol=1e-3,
        )
        for other in others
        for name in baselines_of(first)
        for metric in _DRAWN
        if metric in metrics_of(study) and not math.isnan(method_score(first, name, metric).value)
    )


def _bars(study: Study) -> str:
    """What the bars are, in words."""
    uncertainty = study.variants[0].shown.part("uncertainty")
    if not uncertainty:
        return "There are no bars, because these evaluations have no intervals."
    return f"Bars are 95 % intervals over {uncertainty['n_units']} {uncertainty['units']}."


def _methods(study: Study) -> Table:
    """One line a method and variant, one column a metric."""
    metrics = metrics_of(study)
    rows = []
    for variant in study.variants:
        for method in ("model", *baselines_of(variant), "ceiling"):
            scores = {m: method_score(variant, method, m) for m in metrics}
            if all(math.isnan(score.value) for score in scores.values()):
                continue
            row: dict = {"method": method_name(method), "variant": variant.name, "key": method}
            for metric, score in scores.items():
                row |= {
                    metric: score.value,
                    f"{metric}_low": score.low,
                    f"{metric}_high": score.high,
                }
            rows.append(row)
    columns = [Column("method", "method"), variant_column(study)]
    columns += [Column(m, metric_heading(m), "range", metric_help(m)) for m in metrics]
    columns.append(Column("key", "name in the files", place="file"))
    look = "Means over groups of cells with 95 % intervals; arrows point to better values."
    return Table("methods", look, columns, rows)
