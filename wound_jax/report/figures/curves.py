"""A quantity against the training step: every seed faint, the smoothed mean of the seeds bold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from wound_jax.report.markup import Html
from wound_jax.report.svg import DASHES, SERIES, Scale, drawing, path, scale, text, x_axis, y_axis

_WIDTH, _HEIGHT = 312, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 296, 46, 206
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
    """The curves of a variant's seeds.

    Attributes:
        name: of the variant.
        curves: one a seed, none empty.
    """

    name: str
    curves: Sequence[Curve]


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
    half = _WINDOW // 2
    values = [
        np.median(curve.values[max(0, i - half) : i + half + 1]) for i in range(len(curve.values))
    ]
    return Curve(curve.steps, np.array(values))


def draw_curves(bundles: Sequence[Bundle], title: str) -> Html:
    """One panel.

    Args:
        bundles: one a variant that logged the quantity; colours follow the order, so a variant
            without it keeps its place with no curves.
        title: the quantity.
    """
    curves = [curve for bundle in bundles for curve in bundle.curves]
    values = np.concatenate([curve.values for curve in curves])
    steps = np.concatenate([curve.steps for curve in curves])
    log = bool(values.min() > 0 and values.max() / values.min() > _LOG_RANGE)
    x = Scale(0.0, float(steps.max()) or 1.0, _LEFT, _RIGHT)
    y = scale(values, _BOTTOM, _TOP, log=log)
    lines = [_bundle(bundle, i, x, y) for i, bundle in enumerate(bundles) if bundle.curves]
    return drawing(
        _WIDTH,
        _HEIGHT,
        f"{title} against the training step",
        text(12, 20, title, bold=True, size=12),
        x_axis(x, _TOP, _BOTTOM, "training step", wanted=4),
        y_axis(y, _LEFT, _RIGHT, "logarithmic axis" if log else ""),
        *lines,
    )


def series_style(index: int) -> tuple[str, str | None]:
    """Colour and dash of the i-th variant; no two of 18 are alike."""
    return SERIES[index % len(SERIES)], DASHES[index // len(SERIES) % len(DASHES)]


def _bundle(bundle: Bundle, index: int, x: Scale, y: Scale) -> list[Html]:
    color, dash = series_style(index)

    def draw(curve: Curve, **style: Any) -> Html:
        points = ((x(s), y(v)) for s, v in zip(curve.steps, curve.values, strict=True))
        return path(points, color, dash=dash, **style)

    faint = [draw(curve, width=1, opacity=0.35) for curve in bundle.curves]
    return [*faint, draw(smooth(mean_curve(bundle.curves)), width=2.2, name=bundle.name)]
