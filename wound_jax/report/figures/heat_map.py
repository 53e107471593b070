"""A score for every cell type and day: colour for the eye, the figure itself in each field."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wound_jax.report.markup import Html, number, tag
from wound_jax.report.svg import MUTED, drawing, rect, shorten, text, text_width

_FIELD_WIDTH, _FIELD_HEIGHT, _TOP = 62, 27, 58
_LETTERS = 18
# From bad (orange) over neutral to good (blue); told apart under every colour blindness.
_BAD, _NEUTRAL, _GOOD = (214, 118, 44), (243, 240, 234), (28, 105, 165)


@dataclass(frozen=True)
class Field:
    """One field.

    Attributes:
        value: the figure; NaN where it is not defined.
        goodness: from -1 (bad) over 0 (no better than no change) to 1 (perfect), for the colour.
        note: shown on hovering.
        mark: whether the model beats the best baseline here.
    """

    value: float
    goodness: float
    note: str
    mark: bool = False


def draw_heat_map(
    title: str,
    subtitle: str,
    rows: Sequence[str],
    columns: Sequence[str],
    fields: Mapping[tuple[str, str], Field],
) -> Html:
    """One panel, a row a cell type and a column a day.

    Args:
        title: of the panel.
        subtitle: below it, with n.
        rows: row labels from top to bottom.
        columns: column labels from left to right.
        fields: (row, column) -> field; missing ones stay empty.
    """
    left = 22 + max(text_width(shorten(row, _LETTERS)) for row in rows)
    title = shorten(title, 34)
    words = 12 + max(text_width(title, 12, bold=True), text_width(subtitle))
    width = max(left + len(columns) * _FIELD_WIDTH, words) + 14
    return drawing(
        width,
        _TOP + len(rows) * _FIELD_HEIGHT + 14,
        f"{title}, by cell type and day",
        text(12, 19, title, bold=True, size=12),
        text(12, 34, subtitle, fill=MUTED),
        *(_head(column, left + j * _FIELD_WIDTH) for j, column in enumerate(columns)),
        *(_row(row, i, left, columns, fields) for i, row in enumerate(rows)),
    )


def _head(column: str, x: float) -> Html:
    middle = x + _FIELD_WIDTH / 2
    return text(middle, _TOP - 7, shorten(column, 9), anchor="middle", fill=MUTED)


def _row(
    row: str,
    place: int,
    left: float,
    columns: Sequence[str],
    fields: Mapping[tuple[str, str], Field],
) -> Html:
    """The fields of one cell type, its name in front."""
    y = _TOP + place * _FIELD_HEIGHT
    return tag(
        "g",
        text(left - 8, y + 18, shorten(row, _LETTERS), anchor="end"),
        *(_field(left + j * _FIELD_WIDTH, y, fields.get((row, c))) for j, c in enumerate(columns)),
    )


def color_of(goodness: float) -> tuple[str, str]:
    """Fill of a goodness in [-1, 1], and the text colour that reads best on it."""
    share = min(abs(goodness), 1.0)
    end = _GOOD if goodness > 0 else _BAD
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(_NEUTRAL, end, strict=True))
    luminance = 0.2126 * _linear(red) + 0.7152 * _linear(green) + 0.0722 * _linear(blue)
    # At .179 the contrasts to white and to black are alike, 4.6 (WCAG 2.1, relative luminance).
    return f"#{red:02x}{green:02x}{blue:02x}", "#ffffff" if luminance < 0.179 else "#000000"


def _field(x: float, y: float, field: Field | None) -> Html | None:
    if field is None:
        return None
    box = (x + 1, y + 1, _FIELD_WIDTH - 2, _FIELD_HEIGHT - 2)
    middle, base = x + _FIELD_WIDTH / 2, y + 18
    if math.isnan(field.value):
        empty = rect(*box, "none", field.note, stroke="var(--rule)", stroke_dasharray="3 3")
        return tag("g", empty, text(middle, base, "n/a", anchor="middle", fill=MUTED, size=10.5))
    fill, ink = color_of(field.goodness)
    shown = number(field.value, 2) + (" ▴" if field.mark else "")
    return tag(
        "g",
        rect(*box, fill, field.note, rx=2),
        text(middle, base, shown, anchor="middle", fill=ink),
    )


def _linear(channel: int) -> float:
    """An sRGB channel as light."""
    c = channel / 255
    return c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
