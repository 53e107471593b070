"""Figures of rows: a ranking, a heat map, bars by cell type, and wound markers gene by gene."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from wound_jax.report.figures.drawing import (
    BAD,
    INK,
    MUTED,
    PREDICTED,
    REAL,
    RULE,
    LegendItem,
    Panel,
    limits,
    round_ticks,
    shorten,
    text_width,
)
from wound_jax.report.words import interval, number, signed

_WIDTH, _LETTERS, _MARKERS_WIDTH = 476, 26, 312
_RANK_HEIGHT, _BAR_HEIGHT, _MARKER_HEIGHT = 23, 34, 19
_FIELD_WIDTH, _FIELD_HEIGHT = 62, 27
# From bad (orange) over neutral to good (blue); told apart under every colour blindness.
_BAD, _NEUTRAL, _GOOD = (214, 118, 44), (243, 240, 234), (28, 105, 165)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_MARK_COLORS = ("#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#7a7a7a")


@dataclass(frozen=True)
class Ranked:
    """One method of a ranking.

    Attributes:
        name: as it is shown.
        value: its score.
        low: lower end of its interval; None without one.
        high: upper end.
        model: whether it is a trained model, which is set off from the baselines.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    model: bool


@dataclass(frozen=True)
class Field:
    """One field of a heat map.

    Attributes:
        value: the score; NaN where it is not defined.
        goodness: from -1 (bad) over 0 (no better than the identity) to 1 (perfect), for the colour.
        note: shown on hovering.
        mark: whether the model beats the best baseline here.
    """

    value: float
    goodness: float
    note: str
    mark: bool = False


@dataclass(frozen=True)
class Marker:
    """One gene in one cell type.

    Attributes:
        gene: symbol.
        sign: the registered direction, +1 or -1.
        true: delta in the replicates, mean over timepoints.
        predicted: delta in the prediction.
    """

    gene: str
    sign: int
    true: float
    predicted: float

    @property
    def right(self) -> bool:
        """Whether the prediction moves the registered way."""
        return self.predicted * self.sign > 0


def draw_ranking(
    title: str,
    subtitle: str,
    rows: Sequence[Ranked],
    ceiling: float | None,
    reference: float | None,
    limit: float = math.inf,
) -> Panel:
    """Methods on one scale: a dot each, with its interval, and the noise ceiling as a line.

    Args:
        title: the metric.
        subtitle: which way is better.
        rows: from top to bottom.
        ceiling: the noise ceiling; None where it is not known.
        reference: the score of the identity; None where it says nothing.
        limit: where the axis ends; a method beyond it is given by its score, so that one of them
            does not press all others together.
    """
    top, bottom = 52, 52 + _RANK_HEIGHT * len(rows)
    left = 22 + max(text_width(shorten(r.name, _LETTERS), bold=r.model) for r in rows)
    values = [
        min(v, limit) for row in rows for v in (row.value, row.low, row.high) if v is not None
    ]
    panel = Panel(_WIDTH, bottom + 26, f"{title} of every method", title, subtitle)
    ends = limits(values, [v for v in (ceiling, reference) if v is not None])
    axes = panel.axes((left, top, _WIDTH - 16, bottom), ends, (len(rows) - 0.5, -0.5), "x")
    round_ticks(axes, "x")
    if ceiling is not None:
        _draw_ceiling(axes, ceiling, bottom - top)
    if reference is not None:
        axes.axvline(reference, color=MUTED, lw=1)
    _name_rows(axes, [shorten(row.name, _LETTERS) for row in rows])
    for place, (row, label) in enumerate(zip(rows, axes.get_yticklabels(), strict=True)):
        label.set_fontweight("bold" if row.model else "normal")
        _draw_ranked(panel, axes, row, place, limit)
    return panel


def _draw_ceiling(axes: Axes, ceiling: float, height: float) -> None:
    axes.axvline(ceiling, ymax=1 + 10 / height, color=INK, lw=1.2, ls=(0, (4, 2.5)), clip_on=False)
    # The word stands on the side where there is room.
    beyond = ceiling > sum(axes.get_xlim()) / 2
    axes.annotate(
        f"noise ceiling {number(ceiling, 2)}",
        (ceiling, 1),
        (-4 if beyond else 4, 4),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="right" if beyond else "left",
        fontsize=10.5,
        color=INK,
    )


def _draw_ranked(panel: Panel, axes: Axes, row: Ranked, place: int, limit: float) -> None:
    """The dot and the interval of one method."""
    color = PREDICTED if row.model else MUTED
    if row.value > limit:
        shown = f"{number(row.value, 2)} ▸"
        axes.text(
            axes.get_xlim()[1], place, shown, ha="right", va="center", fontsize=11, color=color
        )
        return
    if row.low is not None and row.high is not None:
        ends = [row.low, min(row.high, limit)]
        axes.plot(ends, [place] * 2, color=color, lw=2.2, solid_capstyle="butt")
    hover = f"{row.name}: {number(row.value)} {interval(row.low, row.high)}".strip()
    panel.dot(axes, (row.value, place), 4.6 if row.model else 3.6, color, hover)


def draw_heat_map(
    title: str,
    subtitle: str,
    rows: Sequence[str],
    columns: Sequence[str],
    fields: Mapping[tuple[str, str], Field],
) -> Panel:
    """Scores by cell type and timepoint: colour for the eye, the score itself in each field.

    Args:
        title: of the panel.
        subtitle: below it, with n.
        rows: cell types from top to bottom.
        columns: timepoints from left to right.
        fields: (row, column) -> field; missing ones stay empty.
    """
    top = 58
    title = shorten(title, 34)
    left = 22 + max(text_width(shorten(row, 18)) for row in rows)
    right = left + len(columns) * _FIELD_WIDTH
    words = 12 + max(text_width(title, 12, bold=True), text_width(subtitle))
    bottom = top + len(rows) * _FIELD_HEIGHT
    name = f"{title}, by cell type and timepoint"
    panel = Panel(max(right, words) + 14, bottom + 14, name, title, subtitle)
    ends = (-0.5, len(columns) - 0.5), (len(rows) - 0.5, -0.5)
    axes = panel.axes((left, top, right, bottom), *ends, grid=None)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=11)
    axes.set_xticks(range(len(columns)), [shorten(column, 9) for column in columns])
    _name_rows(axes, [shorten(row, 18) for row in rows])
    for (row, column), field in fields.items():
        _draw_field(panel, axes, columns.index(column), rows.index(row), field)
    return panel


def _draw_field(panel: Panel, axes: Axes, x: int, y: int, field: Field) -> None:
    width, height = 1 - 2 / _FIELD_WIDTH, 1 - 2 / _FIELD_HEIGHT
    box = Rectangle((x - width / 2, y - height / 2), width, height)
    if math.isnan(field.value):
        box.set(fill=False, edgecolor=RULE, linestyle=(0, (3, 3)))
        shown, ink = "n/a", MUTED
    else:
        fill, ink = color_of(field.goodness)
        box.set(facecolor=fill, linewidth=0)
        shown = number(field.value, 2) + (" ▴" if field.mark else "")
    axes.add_artist(box)
    panel.mark(box, field.note)
    text = axes.text(x, y, shown, ha="center", va="center_baseline", fontsize=11, color=ink)
    panel.mark(text, field.note)


def color_of(goodness: float) -> tuple[str, str]:
    """Fill of a goodness in [-1, 1], and the text colour that reads best on it."""
    share = min(abs(goodness), 1.0)
    end = _GOOD if goodness > 0 else _BAD
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(_NEUTRAL, end, strict=True))
    luminance = 0.2126 * _linear(red) + 0.7152 * _linear(green) + 0.0722 * _linear(blue)
    # At .179 the contrasts to white and to black are alike, 4.6 (WCAG 2.1, relative luminance).
    return f"#{red:02x}{green:02x}{blue:02x}", "#ffffff" if luminance < 0.179 else "#000000"


def _linear(channel: int) -> float:
    """An sRGB channel as light."""
    c = channel / 255
    return c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4


def draw_type_bars(
    title: str,
    subtitle: str,
    types: Sequence[str],
    scores: Mapping[str, Sequence[float]],
    limit: float = math.inf,
) -> Panel:
    """Scores by cell type: a bar for the model, a mark for each baseline, a line for the identity.

    Args:
        title: the metric.
        subtitle: how to read it.
        types: cell types from top to bottom.
        scores: method -> its score of each type, the model's under "model"; NaN where undefined.
        limit: where marks stand that lie beyond: a collapsed prediction would press all others
            together.
    """
    top, bottom = 52, 52 + _BAR_HEIGHT * len(types)
    left = 22 + max(text_width(shorten(name, 18)) for name in types)
    shown = {name: np.minimum(values, limit) for name, values in scores.items()}
    panel = Panel(_WIDTH, bottom + 26, f"{title} by cell type", title, subtitle)
    ends = limits(np.concatenate(list(shown.values())), [0.0])
    axes = panel.axes((left, top, _WIDTH - 16, bottom), ends, (len(types) - 0.5, -0.5), "x")
    round_ticks(axes, "x")
    _name_rows(axes, [shorten(name, 18) for name in types])
    rows = np.arange(len(types))
    axes.barh(rows, shown["model"], 0.7, color=PREDICTED, lw=0)
    marks = type_marks(list(scores))
    # Marks of equal value would hide one another on a common height.
    offsets = np.linspace(-0.25, 0.25, len(marks)) if len(marks) > 1 else [0.0]
    for (name, style), offset in zip(marks.items(), offsets, strict=True):
        (line,) = axes.plot(shown[name], rows + offset, **style, clip_on=False, zorder=4)
        panel.mark(line, name)
    if "identity" in shown:
        axes.axvline(float(np.nanmean(shown["identity"])), color=INK, ls="--", lw=1)
    return panel


def type_marks(methods: Sequence[str]) -> dict[str, dict]:
    """The mark of each baseline but the identity: 45 that differ in shape or in colour."""
    drawn = [name for name in methods if name not in ("model", "identity")]
    return {
        name: {
            "ls": "none",
            "marker": _MARKERS[i % len(_MARKERS)],
            "mfc": _MARK_COLORS[i % len(_MARK_COLORS)],
            "mec": "white",
            "mew": 0.6,
            "ms": 7,
        }
        for i, name in enumerate(drawn)
    }


def type_legend(methods: Sequence[str]) -> list[LegendItem]:
    """What bars, marks and line of `draw_type_bars` are."""
    marks = [LegendItem(name, style) for name, style in type_marks(methods).items()]
    line = [LegendItem("identity", {"color": INK, "ls": "--", "lw": 1})]
    bar = LegendItem("model", {"color": PREDICTED, "lw": 8, "solid_capstyle": "butt"})
    return [bar, *marks, *(line if "identity" in methods else [])]


def draw_markers(title: str, subtitle: str, markers: Sequence[Marker]) -> Panel:
    """A row a gene; a dashed line joins dots that lie on different sides of zero."""
    top, bottom = 48, 48 + _MARKER_HEIGHT * len(markers)
    name = f"{title}: true and predicted delta of the wound markers"
    panel = Panel(_MARKERS_WIDTH, bottom + 40, name, shorten(title, 46), subtitle)
    ends = limits((v for m in markers for v in (m.true, m.predicted)), [0.0])
    box = (104, top, 298, bottom)
    axes = panel.axes(box, ends, (len(markers) - 0.5, -0.5), "x")
    round_ticks(axes, "x")
    axes.set_xlabel("delta (log scale of expression)", fontsize=11, color=MUTED)
    axes.axvline(0.0, color=INK, lw=1)
    names = [f"{shorten(m.gene, 12)} {'▲' if m.sign > 0 else '▼'}" for m in markers]
    axes.set_yticks(range(len(markers)), names, fontsize=11)
    for place, (marker, label) in enumerate(zip(markers, axes.get_yticklabels(), strict=True)):
        label.set_color(INK if marker.right else BAD)
        _draw_marker(panel, axes, marker, place)
    return panel


def _draw_marker(panel: Panel, axes: Axes, marker: Marker, place: int) -> None:
    color, dash = (MUTED, "-") if marker.right else (BAD, (0, (2, 1.3)))
    axes.plot([marker.true, marker.predicted], [place] * 2, color=color, lw=1.6, ls=dash)
    hover = f"{marker.gene} in the replicates: {signed(marker.true)}"
    panel.dot(axes, (marker.true, place), 4, REAL, hover)
    hover = f"{marker.gene} predicted: {signed(marker.predicted)}"
    panel.dot(axes, (marker.predicted, place), 4, PREDICTED, hover)


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names, fontsize=11, color=INK)
