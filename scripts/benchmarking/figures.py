"""What came out: the median and the spread of each figure, ratios between cases, a table.

Ratios are taken round by round, between turns that lie next to each other, and their median is
reported: what slows the machine down for a while slows both down.
"""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarking.case import Case

_COLUMNS = (
    ("whole loop, steps/s", "steps_per_second"),
    ("compute, ms", "compute_ms"),
    ("waiting, %", "waiting_percent"),
    ("loss, % of step", "loss_percent"),
    ("GFLOP/step", "model_gflop"),
    ("% of matmul", "matmul_percent"),
    ("first step cold, s", "first_step_cold"),
    ("warm, s", "first_step_warm"),
    ("peak GiB", "peak_gib"),
    ("predict, cells/s", "predict_cells_per_second"),
    ("x peer, loop", "times_peer"),
    ("x peer, predict", "times_peer_predict"),
    ("x LoRA", "times_lora"),
)


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median and spread: the quartiles, and the extremes."""
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else None
    low, _, high = quartiles or [values[0]] * 3
    return {
        "median": statistics.median(values),
        "lower_quartile": low,
        "upper_quartile": high,
        "min": min(values),
        "max": max(values),
    }


def line(rounds: Sequence[dict], once: dict[str, Any]) -> dict[str, Any]:
    """The figures of one case.

    Args:
        rounds: its answers, one a turn.
        once: what was measured once: `first_step_warm`, `first_step_cold`, `peak_memory_bytes`,
            `model_flops`, `loss_seconds`; what is missing is left out.
    """
    whole, alone = ([r[key] for r in rounds] for key in ("whole_seconds", "compute_seconds"))
    found: dict[str, Any] = {
        "steps_per_second": summary([1 / seconds for seconds in whole]),
        "compute_ms": summary([1000 * seconds for seconds in alone]),
        "waiting_percent": summary([100 * r["waiting_share"] for r in rounds]),
    }
    if "loss_seconds" in once:
        share = 100 * once["loss_seconds"]
        found["loss_percent"] = summary([share / seconds for seconds in alone])
    if "model_flops" in once:
        flops = once["model_flops"]
        found["model_gflop"] = flops / 1e9
        found["achieved_flops"] = summary([flops / seconds for seconds in alone])
        found["matmul_flops"] = summary([r["matmul_flops"] for r in rounds])
        ceiling = found["matmul_flops"]["median"]
        found["matmul_percent"] = summary([100 * flops / seconds / ceiling for seconds in alone])
    if "peak_memory_bytes" in once:
        peak = once["peak_memory_bytes"]
        found["peak_gib"] = peak.get("device", peak["host"]) / 2**30
    if all("predict_seconds" in r for r in rounds):
        rates = [1 / r["predict_seconds"] for r in rounds]
        found["predict_cells_per_second"] = summary(rates)
    copied = ("first_step_cold", "first_step_warm")
    return found | {key: once[key] for key in copied if key in once}


def ratios(rounds: dict[Case, list[dict]], lines: dict[Case, dict[str, Any]]) -> None:
    """Adds to each line how it compares to its peer, and LoRA with mHC to LoRA without."""
    for case, found in lines.items():
        peer = replace(case, impl="peer", dtype="medium")
        if peer in lines and peer != case:
            found["times_peer"] = paired(rounds[peer], rounds[case], "whole_seconds")
            if "predict_cells_per_second" in found:
                found["times_peer_predict"] = paired(rounds[peer], rounds[case], "predict_seconds")
        plain = replace(case, variant="lora")
        if case.variant == "lora_mhc" and plain in lines:
            found["times_lora"] = paired(rounds[case], rounds[plain], "compute_seconds")


def paired(above: Sequence[dict], below: Sequence[dict], key: str) -> dict[str, float]:
    """The ratio of a figure, round by round, summed up."""
    return summary([a[key] / b[key] for a, b in zip(above, below, strict=True)])


def table(lines: dict[Case, dict[str, Any]]) -> str:
    """One row a case: medians, with half the distance between the quartiles as the spread."""
    columns = [(title, key) for title, key in _COLUMNS if any(key in f for f in lines.values())]
    rows = [["case", *(title for title, _ in columns)], ["---"] * (len(columns) + 1)]
    for case, found in lines.items():
        rows.append([case.name, *(_cell(found.get(key)) for _, key in columns)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if not isinstance(value, dict):
        return _digits(value)
    spread = (value["upper_quartile"] - value["lower_quartile"]) / 2
    return f"{_digits(value['median'])} ± {_digits(spread)}"


def _digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
