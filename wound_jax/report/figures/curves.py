"""Figures over time: a quantity by the training step, a score by the timepoint."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from wound_jax.report.figures.drawing import (
    DASHES,
    INK,
    MUTED,
    PREDICTED,
    RAISED,
    REAL,
    SERIES,
    LegendItem,
    Panel,
    limits,
    round_ticks,
    shorten,
    stroke,
)
from wound_jax.report.words import signed

_WIDTH, _HEIGHT, _TIMEPOINT_WIDTH = 312, 250, 74
_BOX = (48, 46, 296, 206)
# Points of one curve, at most: more cannot be told apart and make the page heavy.
_BINS = 150
# Points of the running median of the bold line.
_WINDOW = 9
# A range above this is drawn on a logarithmic axis.
_LOG_RANGE = 10.0


@dataclass(frozen=True, eq=False)
class Curve:
    """One logged quantity of one run.

    Attributes:
        steps: ascending.
        values: finite.
    """

    steps: Float[np.ndarray, " steps"]
    values: Float[np.ndarray, " steps"]


@dataclass(frozen=True, eq=False)
class Bundle:
    """Curves drawn in one colour: those of a variant's seeds.

    Attributes:
        name: of the variant.
        curves: one a seed, none empty.
    """

    name: str
    curves: Sequence[Curve]


@dataclass(frozen=True)
class TimepointScore:
    """A score at one timepoint.

    Attributes:
        timepoint: label.
        true: delta of the score in the replicates.
        low: lower end of the replicates' interval; NaN without one.
        high: upper end.
        predicted: (variant, delta), one for each.
    """

    timepoint: str
    true: float
    low: float
    high: float
    predicted: Sequence[tuple[str, float]]


def read_curve(records: Sequence[Mapping[str, Any]], key: str) -> Curve | None:
    """One quantity of a log, thinned to medians of equal stretches; None where it was not logged.

    Args:
        records: log records with "step".
        key: which quantity.
    """
    pairs = sorted((r["step"], r[key]) for r in records if r.get(key) is not None)
    steps, values = np.array(pairs, dtype=float).reshape(-1, 2).T
    kept = np.isfinite(values)
    if not kept.any():
        return None
    stretches = np.array_split(np.arange(kept.sum()), min(_BINS, kept.sum()))
    steps, values = steps[kept], values[kept]
    return Curve(
        np.array([steps[part].mean() for part in stretches]),
        np.array([np.median(values[part]) for part in stretches]),
    )


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean over the seeds, at the steps that all of them reached."""
    last = min(curve.steps[-1] for curve in curves)
    first = max(curve.steps[0] for curve in curves)
    steps = np.unique(np.concatenate([curve.steps for curve in curves]))
    steps = steps[(steps >= first) & (steps <= last)]
    if not steps.size:
        return curves[0]
    values = [np.interp(steps, curve.steps, curve.values) for curve in curves]
    return Curve(steps, np.mean(values, axis=0))


def smooth(curve: Curve) -> Curve:
    """Running median over `_WINDOW` points, fewer at the ends; a curve of few points as it is."""
    if len(curve.values) < 4 * _WINDOW:
        return curve
    return Curve(curve.steps, running_median(curve.values, _WINDOW))


def running_median(values: Float[np.ndarray, " steps"], window: int) -> np.ndarray:
    """Median of the surrounding window, shortened at the ends."""
    half = window // 2
    return np.array(
        [np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
    )


def draw_curves(bundles: Sequence[Bundle], title: str) -> Panel:
    """One panel: every seed faint, the smoothed mean of the seeds bold.

    Args:
        bundles: one a variant that logged the quantity; colours follow the order, so a variant
            without it keeps its place with no curves.
        title: the quantity.
    """
    curves = [curve for bundle in bundles for curve in bundle.curves]
    values = np.concatenate([curve.values for curve in curves])
    last = max(curve.steps[-1] for curve in curves)
    log = bool(values.min() > 0 and values.max() / values.min() > _LOG_RANGE)
    name = f"{title} against the training step"
    panel = Panel(_WIDTH, _HEIGHT, name, title, "logarithmic axis" if log else "")
    axes = panel.axes(_BOX, (0.0, float(last) or 1.0), limits(values, log=log))
    axes.set_yscale("log" if log else "linear")
    axes.set_xlabel("training step", fontsize=11, color=MUTED)
    axes.tick_params(which="minor", length=0)
    round_ticks(axes, "x", 4)
    round_ticks(axes, "y")
    for i, bundle in enumerate(bundles):
        if not bundle.curves:
            continue
        color, dash = series_style(i)
        for curve in bundle.curves:
            axes.plot(curve.steps, curve.values, color=color, ls=dash, lw=1, alpha=0.35)
        mean = smooth(mean_curve(bundle.curves))
        (line,) = axes.plot(mean.steps, mean.values, color=color, ls=dash, lw=2.2)
        panel.mark(line, bundle.name)
    return panel


def series_style(index: int) -> tuple[str, Any]:
    """Colour and dash of the i-th variant; no two of 18 are alike."""
    return SERIES[index % len(SERIES)], DASHES[index // len(SERIES) % len(DASHES)]


def series_legend(names: Sequence[str]) -> list[LegendItem]:
    """The line of each variant."""
    return [stroke(name, *series_style(i)) for i, name in enumerate(names)]


def draw_scores(title: str, subtitle: str, timepoints: Sequence[TimepointScore]) -> Panel:
    """An orange bar is where a further replicate should lie, blue dots are predictions."""
    left, top, bottom = 46, 60, 222
    width = max(_WIDTH, left + _TIMEPOINT_WIDTH * len(timepoints) + 16)
    name = f"{title}: delta of the score by timepoint"
    panel = Panel(width, bottom + 30, name, shorten(title, 46), subtitle)
    values = (v for t in timepoints for v in (t.true, t.low, t.high, *(p for _, p in t.predicted)))
    box = (left, top, width - 16, bottom)
    # One unit is as wide as one timepoint.
    axes = panel.axes(box, (-0.5, len(timepoints) - 0.5), limits(values, [0.0]), "y")
    round_ticks(axes, "y")
    panel.text(left, top - 8, "delta of the score", color=MUTED)
    axes.axhline(0.0, color=INK, lw=1)
    labels = [shorten(one.timepoint, 11) for one in timepoints]
    axes.set_xticks(range(len(timepoints)), labels, fontsize=11)
    unit = len(timepoints) / (box[2] - box[0])
    for place, one in enumerate(timepoints):
        _draw_score(panel, axes, one, place, unit)
    return panel


def _draw_score(panel: Panel, axes: Axes, one: TimepointScore, place: int, unit: float) -> None:
    """One timepoint; `unit` is a pixel in values of the horizontal axis."""
    center = place - 12 * unit
    if math.isfinite(one.low) and math.isfinite(one.high):
        axes.plot([center] * 2, [one.low, one.high], color=REAL, lw=2.5, solid_capstyle="butt")
        for end in (one.low, one.high):
            ends = [center - 4 * unit, center + 4 * unit]
            axes.plot(ends, [end] * 2, color=REAL, lw=2.5, solid_capstyle="butt")
    hover = f"replicates {signed(one.true)} [{signed(one.low)}, {signed(one.high)}]"
    panel.dot(axes, (center, one.true), 4.5, REAL, hover)
    # Variants beside one another, not on top.
    room = min(30 / max(len(one.predicted), 1), 12)
    for i, (name, value) in enumerate(one.predicted):
        at = place + (4 + room * i) * unit
        hover = f"{name}: {signed(value)}"
        panel.dot(axes, (at, value), 4.5, PREDICTED, hover, ring=RAISED)
