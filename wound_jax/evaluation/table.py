"""Results as numbers to read: the mean over strata and an aligned text table.

Owns the summary of per-stratum scores,

    summary[metric] = mean over strata with a defined value (equal weight),

and how it is printed, model first, then every baseline.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from wound_jax.errors import on_one_line
from wound_jax.evaluation.metrics import METRICS

SHOWN_METRICS = ("pearson_delta", "pearson_delta_top100", "mse", "e_distance_ratio")

Scores = Mapping[str, float | None]


def summarise(strata: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Average the scores over strata, equal weight each, values that are not defined left out.

    Args:
        strata: one mapping a stratum with "model": {metric: value}, "baselines":
            {name: {metric: value}} and "ceiling": {metric: value} or None; undefined values are NaN
            or None.

    Returns:
        "model", "baselines" and "ceiling" in the same nesting with the means (NaN where no stratum
        has a value), and under "counts" the same again with the number of strata behind each mean.
    """
    model, model_counts = _mean_scores([stratum["model"] for stratum in strata])
    ceiling, ceiling_counts = _mean_scores([s["ceiling"] for s in strata if s.get("ceiling")])
    means: dict[str, dict[str, float]] = {}
    counts: dict[str, dict[str, int]] = {}
    for name in dict.fromkeys(name for stratum in strata for name in stratum["baselines"]):
        scores = [s["baselines"][name] for s in strata if name in s["baselines"]]
        means[name], counts[name] = _mean_scores(scores)
    return {
        "model": model,
        "baselines": means,
        "ceiling": ceiling,
        "counts": {"model": model_counts, "baselines": counts, "ceiling": ceiling_counts},
    }


def results_table(result: Mapping[str, Any]) -> str:
    """The summary as an aligned table with the best value of each column marked.

    Args:
        result: content of `eval/metrics.json`: "split" with "kind", "leaky" and optionally
            "n_replicates" (replicates of the scored treated cells), "strata", "summary"
            (`summarise`), and "uncertainty", "mean_from" and "left_out" where there are any.

    Returns:
        Lines joined by newlines: a title, one row for the model, one for each baseline, one for
        the ceiling, and notes. Arrows point to better values; `*` marks the value nearest to a
        perfect one, the ceiling aside.
    """
    summary = result["summary"]
    rows: dict[str, Scores] = {"model": summary["model"], **summary["baselines"]}
    ceiling = summary.get("ceiling") or {}
    columns = [_column(name, rows, ceiling) for name in SHOWN_METRICS]
    labels = ["", *rows, *(["ceiling"] if ceiling else [])]
    lines = aligned(list(zip(labels, *columns, strict=True)))
    rule = "-" * max(map(len, lines))
    notes = ["mean over strata; * best; identity scores 0 on pearson_delta, 1 on e_distance_ratio"]
    notes += _means_from(result.get("mean_from"))
    notes += _differences(result.get("uncertainty"))
    notes += _partial_means(summary.get("counts"), len(result["strata"]))
    notes += [f"left out: {name}, {why}" for name, why in result.get("left_out", {}).items()]
    return "\n".join([_title(result), rule, lines[0], rule, *lines[1:], rule, *notes])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """One line a row, in columns of one width, all to the left."""
    rows = [[on_one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return [line.rstrip() for line in lines]


def shown_figure(metric: str, value: float) -> str:
    """A figure with the digits that its metric deserves."""
    return "n/a" if math.isnan(value) else f"{value:.3f}" if metric != "mse" else f"{value:.5f}"


def _mean_scores(scores: Sequence[Scores]) -> tuple[dict[str, float], dict[str, int]]:
    """Mean of the defined values of each metric, and how many there are."""
    means: dict[str, float] = {}
    counts: dict[str, int] = {}
    for name in dict.fromkeys(name for row in scores for name in row):
        values = [_number(row.get(name)) for row in scores]
        defined = [value for value in values if not math.isnan(value)]
        counts[name] = len(defined)
        means[name] = math.fsum(defined) / len(defined) if defined else math.nan
    return means, counts


def _number(value: float | None) -> float:
    """A value of the results; None, as strict JSON writes NaN, is NaN again."""
    return math.nan if value is None else float(value)


def _column(name: str, rows: Mapping[str, Scores], ceiling: Scores) -> list[str]:
    """Header and cells of one metric, right-aligned to one width; the ceiling is not ranked."""
    entry = METRICS.get(name)
    values = {label: _number(scores.get(name)) for label, scores in rows.items()}
    best_value = entry.best_value
    best = math.nan
    if best_value is not None:
        gaps = [abs(v - best_value) for v in values.values() if not math.isnan(v)]
        best = min(gaps, default=math.nan)
    cells = [f"{name} {entry.arrow}"]
    for value in values.values():
        marked = best_value is not None and abs(value - best_value) == best
        cells.append(shown_figure(name, value) + ("*" if marked else " "))
    if ceiling:
        cells.append(shown_figure(name, _number(ceiling.get(name))) + " ")
    width = max(map(len, cells))
    return [cell.rjust(width) for cell in cells]


def _means_from(shares: Mapping[str, Mapping[str, float]] | None) -> list[str]:
    """What the model's means are made of, where they are not the network's alone."""
    if not shares or all(of["network"] == 1.0 for of in shares.values()):
        return []
    network, regressed, linear, genes = (
        f"{100 * math.fsum(of.get(name, 0.0) for of in shares.values()) / len(shares):.0f} %"
        for name in ("network", "regressed", "linear", "genes")
    )
    return [
        f"the model's mean cells are {network} the network's, {regressed} the same regressed, "
        f"{linear} of the linear rules, {genes} learnt across genes (prediction.*); what varies "
        "about them is the network's"
    ]


def _differences(uncertainty: Mapping[str, Any] | None) -> list[str]:
    """The model against the best baseline of each metric, with its interval and its units."""
    if not uncertainty:
        return []
    n = uncertainty["n_units"]
    many = str(uncertainty["units"])
    units = _counted(n, "stratum" if many == "strata" else many.removesuffix("s"), many)
    lines = [f"model against the best baseline, 95 % interval over {units}, + is better:"]
    for name, found in uncertainty["differences"].items():
        value, low, high = (_number(found[key]) for key in ("value", "low", "high"))
        digits = 5 if name == "mse" else 3
        span = "no interval" if math.isnan(low) else f"[{low:+.{digits}f}, {high:+.{digits}f}]"
        lines.append(f"  {name} {value:+.{digits}f} {span} to {found['best_baseline']}")
    return lines


def _title(result: Mapping[str, Any]) -> str:
    """What was held out, how many units, and the stamp of a leaky split."""
    split = result["split"]
    parts = [f"{split['kind']} split", _counted(len(result["strata"]), "stratum", "strata")]
    if split.get("n_replicates") is not None:
        # Only a split by replicate holds replicates out; in the others they are on both sides.
        held_out = "held-out " if split["kind"] in ("replicate", "external") else ""
        n = split["n_replicates"]
        parts.append(_counted(n, f"{held_out}replicate", f"{held_out}replicates"))
    if split["leaky"]:
        parts.append("LEAKY: test cells share replicates with training cells")
    return " | ".join(parts)


def _counted(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"


def _partial_means(counts: Mapping[str, Any] | None, n_strata: int) -> list[str]:
    """A note for every shown mean that leaves strata out, methods that leave as many together."""
    if counts is None:
        return []
    rows = {"model": counts["model"], **counts["baselines"], **_only("ceiling", counts)}
    partial: dict[tuple[str, int], list[str]] = {}
    for name in SHOWN_METRICS:
        for label, row in rows.items():
            if row.get(name, n_strata) < n_strata:
                partial.setdefault((name, row[name]), []).append(label)
    return [
        f"{'all' if len(labels) == len(rows) else ', '.join(labels)}: "
        f"{name} is defined in {defined} of {n_strata} strata"
        for (name, defined), labels in partial.items()
    ]


def _only(name: str, counts: Mapping[str, Any]) -> dict[str, Any]:
    """That entry, where it is not empty."""
    return {name: counts[name]} if counts.get(name) else {}
