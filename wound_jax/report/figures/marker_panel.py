"""Registered wound markers: the change in the replicates and in the prediction, gene by gene."""

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
    x_axis,
)

_WIDTH, _LEFT, _RIGHT, _TOP, _ROW = 312, 104, 298, 48, 19


@dataclass(frozen=True)
class Marker:
    """One gene in one cell type.

    Attributes:
        gene: symbol.
        sign: the registered direction, +1 or -1.
        true: change in the replicates, mean over days.
        predicted: change in the prediction.
    """

    gene: str
    sign: int
    true: float
    predicted: float

    @property
    def right(self) -> bool:
        """Whether the prediction moves the registered way."""
        return self.predicted * self.sign > 0


def draw_marker_panel(title: str, subtitle: str, markers: Sequence[Marker]) -> Html:
    """One panel, a row a gene; a dashed line joins dots that lie on different sides of zero."""
    bottom = _TOP + _ROW * len(markers)
    x = scale((v for m in markers for v in (m.true, m.predicted)), _LEFT, _RIGHT, include=(0.0,))
    rows = [part for i, m in enumerate(markers) for part in _row(m, _TOP + (i + 0.5) * _ROW, x)]
    return drawing(
        _WIDTH,
        bottom + 40,
        f"{title}: true and predicted change of the wound markers",
        text(12, 19, shorten(title, 46), bold=True, size=12),
        text(12, 34, subtitle, fill=MUTED),
        x_axis(x, _TOP, bottom, "change (log scale of expression)"),
        line(x(0.0), _TOP, x(0.0), bottom, INK, 1),
        *rows,
    )


def _row(marker: Marker, y: float, x: Scale) -> list[Html]:
    arrow = "▲" if marker.sign > 0 else "▼"
    color = MUTED if marker.right else "var(--bad)"
    true, predicted = x(marker.true), x(marker.predicted)
    return [
        text(
            _LEFT - 22,
            y + 4,
            shorten(marker.gene, 12),
            anchor="end",
            fill=INK if marker.right else color,
        ),
        text(_LEFT - 8, y + 3.5, arrow, anchor="end", size=8.5, fill=MUTED),
        line(true, y, predicted, y, color, 1.6, None if marker.right else "3 2"),
        dot(true, y, 4, REAL, f"{marker.gene} in the replicates: {signed(marker.true)}"),
        dot(predicted, y, 4, PREDICTED, f"{marker.gene} predicted: {signed(marker.predicted)}"),
    ]
