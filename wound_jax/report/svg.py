"""Drawing with SVG: scales, axes and marks, coloured by the page's own variables.

Colours are CSS variables, so that a drawing follows the light or dark page; text is text, so that
it can be searched and is set in the page's font; a mark's name is its `<title>`, shown on hovering.

    pixel = start + (value - low) / (high - low) * (stop - start)
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from wound_jax.report.markup import MINUS, Child, Html, tag

# Okabe and Ito's colours, told apart under the common colour blindnesses; set in style.css.
SERIES = tuple(f"var(--series-{i})" for i in range(1, 7))
DASHES = (None, "6 3", "2 3")
CONTROL, REAL, PREDICTED = "var(--control)", "var(--real)", "var(--predicted)"
INK, MUTED, RULE = "var(--ink)", "var(--muted)", "var(--rule)"


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic map from values to pixels.

    Attributes:
        low: the value at `start`.
        high: the value at `stop`.
        start: pixel.
        stop: pixel; below `start` for a vertical axis.
        log: whether equal ratios take equal room.
    """

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.stop - self.start)

    def ticks(self, wanted: int = 5) -> list[float]:
        """Round values within the scale."""
        from matplotlib.ticker import LogLocator, MaxNLocator

        locator = MaxNLocator(wanted, steps=[1, 2, 5, 10])
        if self.log and self.high / self.low > 8:
            locator = LogLocator(subs=(1.0, 2.0, 5.0) if self.high / self.low < 200 else (1.0,))
        values = locator.tick_values(self.low, self.high)
        slack = 1e-9 * (self.high - self.low)
        return [float(v) for v in values if self.low - slack <= v <= self.high + slack]


def scale(
    values: Iterable[float],
    start: float,
    stop: float,
    *,
    include: Sequence[float] = (),
    log: bool = False,
) -> Scale:
    """A scale that holds all finite values, with a little room at both ends."""
    finite = [v for v in [*values, *include] if math.isfinite(v) and (v > 0 or not log)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if log:
        room = max((high / low) ** 0.05, 1.05)
        return Scale(low / room, high * room, start, stop, log=True)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    return Scale(low - room, high + room, start, stop)


def drawing(width: float, height: float, name: str, *children: Child) -> Html:
    """An SVG drawing with a name for readers who cannot see it."""
    return tag(
        "svg",
        *children,
        viewBox=f"0 0 {width:g} {height:g}",
        width=f"{width:g}",
        role="img",
        aria_label=name,
    )


def text(
    x: float,
    y: float,
    words: str,
    *,
    anchor: str = "start",
    size: float = 11,
    fill: str = INK,
    bold: bool = False,
    halo: bool = False,
) -> Html:
    """A line of text; `y` is its baseline. A halo keeps it readable on marks."""
    return tag(
        "text",
        words,
        x=f"{x:.1f}",
        y=f"{y:.1f}",
        text_anchor=None if anchor == "start" else anchor,
        font_size=f"{size:g}",
        font_weight="600" if bold else None,
        fill=fill,
        class_="halo" if halo else None,
    )


def line(
    x1: float, y1: float, x2: float, y2: float, stroke: str = RULE, width: float = 1, dash=None
) -> Html:
    """A straight line."""
    ends = dict(zip(("x1", "y1", "x2", "y2"), (f"{v:.1f}" for v in (x1, y1, x2, y2)), strict=True))
    return tag("line", **ends, stroke=stroke, stroke_width=f"{width:g}", stroke_dasharray=dash)


def path(
    points: Iterable[tuple[float, float]],
    stroke: str,
    *,
    width: float = 1.5,
    opacity: float | None = None,
    dash: str | None = None,
    name: str | None = None,
) -> Html:
    """A line through points in pixels."""
    steps = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return tag(
        "polyline",
        tag("title", name) if name else None,
        points=steps,
        fill="none",
        stroke=stroke,
        stroke_width=f"{width:g}",
        stroke_opacity=opacity,
        stroke_dasharray=dash,
        stroke_linejoin="round",
    )


def dot(x: float, y: float, radius: float, fill: str, name: str | None = None, ring=None) -> Html:
    """A disc; its name is shown on hovering. A ring is drawn around it in that colour."""
    return tag(
        "circle",
        tag("title", name) if name else None,
        cx=f"{x:.1f}",
        cy=f"{y:.1f}",
        r=f"{radius:g}",
        fill=fill,
        stroke=ring,
        stroke_width="1.5" if ring else None,
    )


def rect(x: float, y: float, width: float, height: float, fill: str, name=None, **more) -> Html:
    """A filled rectangle; its name is shown on hovering."""
    box = dict(
        zip(
            ("x", "y", "width", "height"),
            (f"{v:.1f}" for v in (x, y, width, height)),
            strict=True,
        )
    )
    return tag("rect", tag("title", name) if name else None, **box, fill=fill, **more)


def x_axis(x: Scale, top: float, bottom: float, label: str, wanted: int = 5) -> Html:
    """Ticks below the panel, light lines through it, and the quantity with its unit."""
    marks = []
    for value in x.ticks(wanted):
        at = x(value)
        marks += [
            line(at, top, at, bottom),
            text(at, bottom + 14, tick(value), anchor="middle", size=10.5, fill=MUTED),
        ]
    middle = (x.start + x.stop) / 2
    return tag("g", *marks, text(middle, bottom + 30, label, anchor="middle", fill=MUTED))


def y_axis(y: Scale, left: float, right: float, label: str, wanted: int = 5) -> Html:
    """Ticks left of the panel, light lines through it; the quantity stands above."""
    marks = []
    for value in y.ticks(wanted):
        at = y(value)
        marks += [
            line(left, at, right, at),
            text(left - 6, at + 3.5, tick(value), anchor="end", size=10.5, fill=MUTED),
        ]
    return tag("g", *marks, text(left, y.stop - 8, label, fill=MUTED))


def tick(value: float) -> str:
    """A tick's label: no trailing zeros, a true minus."""
    return f"{value:g}".replace("-", MINUS) if abs(value) < 10_000 else f"{value:,.0f}"


def legend(items: Iterable[tuple[str, str, str | None]]) -> Html:
    """A row of names with a sample of their line or dot.

    Args:
        items: (words, colour, dash); a dash of "dot" shows a disc, None a full line.
    """
    return tag(
        "ul", *(tag("li", _sample(c, dash), words) for words, c, dash in items), class_="legend"
    )


def _sample(color: str, dash: str | None) -> Html:
    mark = dot(12, 6, 4.5, color) if dash == "dot" else line(1, 6, 23, 6, color, 2.5, dash)
    return tag("svg", mark, viewBox="0 0 24 12", width="24", height="12", aria_hidden="true")


@cache
def text_width(words: str, size: float = 11, *, bold: bool = False) -> float:
    """Room of a text in pixels, set in DejaVu Sans, which is wider than what most pages use."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family="DejaVu Sans", size=size, weight="bold" if bold else "normal")
    return float(text_to_path.get_text_width_height_descent(words, font, False)[0])


def shorten(words: str, letters: int) -> str:
    """At most so many letters, the rest an ellipsis; the full name belongs into a title."""
    return words if len(words) <= letters else words[: letters - 1] + "…"


def finite(values: Iterable[float | None]) -> np.ndarray:
    """The defined values as an array."""
    found = np.array([math.nan if v is None else v for v in values], dtype=float)
    return found[np.isfinite(found)]
