"""A score's change over days: replicates with their interval, and the prediction beside them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from wound_jax.report.markup import Html, signed
from wound_jax.report.svg import (
    INK,
    MUTED,
    PREDICTED,
    REAL,
    Scale,
    dot,
    drawing,
    line,
    scale,
    shorten,
    text,
    y_axis,
)

_LEFT, _TOP, _BOTTOM, _DAY, _LEAST = 46, 60, 222, 74, 312


@dataclass(frozen=True)
class DayScore:
    """One day.

    Attributes:
        day: label.
        true: change of the score in the replicates.
        low: lower end of the replicates' interval.
        high: upper end.
        predicted: (variant, change), one for each.
    """

    day: str
    true: float
    low: float
    high: float
    predicted: Sequence[tuple[str, float]]


def draw_score_days(title: str, subtitle: str, days: Sequence[DayScore]) -> Html:
    """One panel: an orange bar is where a further replicate should lie, dots are predictions."""
    width = max(_LEAST, _LEFT + _DAY * len(days) + 16)
    right = width - 16
    values = [v for d in days for v in (d.true, d.low, d.high, *(p for _, p in d.predicted))]
    y = scale(values, _BOTTOM, _TOP, include=(0.0,))
    step = (right - _LEFT) / len(days)
    marks = [part for i, d in enumerate(days) for part in _day(d, _LEFT + (i + 0.5) * step, y)]
    return drawing(
        width,
        _BOTTOM + 30,
        f"{title}: change of the score by day",
        text(12, 19, shorten(title, 46), bold=True, size=12),
        text(12, 34, subtitle, fill=MUTED),
        y_axis(y, _LEFT, right, "change of the score"),
        line(_LEFT, y(0.0), right, y(0.0), INK, 1),
        *marks,
    )


def _day(one: DayScore, x: float, y: Scale) -> list[Html]:
    hover = f"replicates {signed(one.true)} [{signed(one.low)}, {signed(one.high)}]"
    marks = [text(x, _BOTTOM + 18, shorten(one.day, 11), anchor="middle", fill=MUTED)]
    center = x - 12
    if math.isfinite(one.low) and math.isfinite(one.high):
        marks.append(line(center, y(one.low), center, y(one.high), REAL, 2.5))
        for end in (one.low, one.high):
            marks.append(line(center - 4, y(end), center + 4, y(end), REAL, 2.5))
    marks.append(dot(center, y(one.true), 4.5, REAL, hover))
    # Variants beside one another, not on top.
    room = 30 / max(len(one.predicted), 1)
    for i, (name, value) in enumerate(one.predicted):
        at = x + 4 + min(room, 12) * i
        marks.append(dot(at, y(value), 4.5, PREDICTED, f"{name}: {signed(value)}", "var(--raised)"))
    return marks
