"""Methods on one scale: a dot each, with its interval, and the ceiling as a line."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from wound_jax.report.markup import Html, number
from wound_jax.report.svg import (
    INK,
    MUTED,
    PREDICTED,
    Scale,
    dot,
    drawing,
    line,
    scale,
    shorten,
    text,
    text_width,
    x_axis,
)

_ROW, _TOP, _WIDTH, _LETTERS = 23, 52, 476, 26


@dataclass(frozen=True)
class Ranked:
    """One method.

    Attributes:
        name: in words.
        value: its figure.
        low: lower end of its interval; None without one.
        high: upper end.
        model: whether it is a trained model, which is set off from the baselines.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    model: bool


def draw_ranking(
    title: str,
    subtitle: str,
    rows: Sequence[Ranked],
    ceiling: float | None,
    reference: float | None,
    limit: float = math.inf,
) -> Html:
    """One panel.

    Args:
        title: the metric.
        subtitle: which way is better.
        rows: from top to bottom.
        ceiling: what measured replicates reach; None where it is not known.
        reference: the figure of a prediction of no change; None where it says nothing.
        limit: where the axis ends; a method beyond it is given by its figure, so that one of them
            does not press all others together.
    """
    left = 16 + max(text_width(shorten(r.name, _LETTERS), bold=r.model) for r in rows)
    bottom = _TOP + _ROW * len(rows)
    values = [
        min(v, limit) for row in rows for v in (row.value, row.low, row.high) if v is not None
    ]
    marks = [v for v in (ceiling, reference) if v is not None]
    x = scale(values, left + 6, _WIDTH - 16, include=marks)
    guides = [] if ceiling is None else _ceiling(x, ceiling, bottom)
    if reference is not None:
        guides.append(line(x(reference), _TOP, x(reference), bottom, MUTED, 1))
    return drawing(
        _WIDTH,
        bottom + 36,
        f"{title} of every method",
        text(12, 19, title, bold=True, size=12),
        text(12, 34, subtitle, fill=MUTED),
        x_axis(x, _TOP, bottom, ""),
        *guides,
        *(
            part
            for i, row in enumerate(rows)
            for part in _row(row, _TOP + (i + 0.5) * _ROW, left, x, limit)
        ),
    )


def _ceiling(x: Scale, ceiling: float, bottom: float) -> list[Html]:
    at = x(ceiling)
    # The word stands on the side where there is room.
    anchor, gap = ("end", -4) if at > (x.start + x.stop) / 2 else ("start", 4)
    return [
        line(at, _TOP - 10, at, bottom, INK, 1.2, "5 3"),
        text(at + gap, _TOP - 4, f"ceiling {number(ceiling, 2)}", anchor=anchor, size=10.5),
    ]


def _row(row: Ranked, y: float, left: float, x: Scale, limit: float) -> list[Html]:
    color = PREDICTED if row.model else MUTED
    name = text(left - 4, y + 4, shorten(row.name, _LETTERS), anchor="end", bold=row.model)
    if row.value > limit:
        return [name, text(x.stop, y + 4, f"{number(row.value, 2)} ▸", anchor="end", fill=color)]
    hover = f"{row.name}: {number(row.value)}"
    marks = [dot(x(row.value), y, 4.6 if row.model else 3.6, color, hover)]
    if row.low is not None and row.high is not None:
        bounds = f" [{number(row.low)}, {number(row.high)}]"
        marks = [
            line(x(row.low), y, x(min(row.high, limit)), y, color, 2.2),
            dot(x(row.value), y, 4.6 if row.model else 3.6, color, hover + bounds),
        ]
    return [name, *marks]
