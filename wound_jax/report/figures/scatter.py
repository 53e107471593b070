"""True against predicted change, a dot a gene, with the genes worth a look named.

A gene on the diagonal is predicted exactly; one near the horizontal axis is not predicted at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from wound_jax.report.figures.labels import Box, place_labels
from wound_jax.report.figures.raster import raster
from wound_jax.report.markup import Html, tag
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
    y_axis,
)

_WIDTH, _HEIGHT = 312, 322
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 300, 60, 278
_NAMED = 5
_DOTS = "#7d858d"
_LETTERS = 16


@dataclass(frozen=True, eq=False)
class GeneChange:
    """The changes of one stratum.

    Attributes:
        title: the stratum.
        subtitle: its correlation and n.
        genes: names.
        true: [genes].
        predicted: [genes].
    """

    title: str
    subtitle: str
    genes: Sequence[str]
    true: Float[np.ndarray, " genes"]
    predicted: Float[np.ndarray, " genes"]


def named_genes(
    true: Float[np.ndarray, " genes"], predicted: Float[np.ndarray, " genes"]
) -> tuple[Int[np.ndarray, " worst"], Int[np.ndarray, " strongest"]]:
    """The worst misses and the strongest true changes that are not among them, largest first."""
    worst = np.argsort(-np.abs(predicted - true), kind="stable")[:_NAMED]
    strongest = np.argsort(-np.abs(true), kind="stable")
    return worst, strongest[~np.isin(strongest, worst)][:_NAMED]


def draw_scatter(change: GeneChange) -> Html:
    """One panel, both axes on one scale, so that the diagonal is the perfect prediction."""
    both = np.concatenate([change.true, change.predicted])
    x = scale(both, _LEFT, _RIGHT, include=(0.0,))
    y = Scale(x.low, x.high, _BOTTOM, _TOP)
    points = np.stack([[x(v) for v in change.true], [y(v) for v in change.predicted]], axis=1)
    box = (_LEFT, _TOP, _RIGHT - _LEFT, _BOTTOM - _TOP)
    return drawing(
        _WIDTH,
        _HEIGHT,
        f"{change.title}: true and predicted change of each gene",
        text(12, 19, shorten(change.title, 40), bold=True, size=12),
        text(12, 34, change.subtitle, fill=MUTED),
        x_axis(x, _TOP, _BOTTOM, "true change (mean treated less control)"),
        y_axis(y, _LEFT, _RIGHT, "predicted change"),
        line(x(x.low), y(x.low), x(x.high), y(x.high), MUTED, dash="4 3"),
        raster(points, [_DOTS] * len(points), box),
        *_named(change, points),
    )


def _named(change: GeneChange, points: Float[np.ndarray, "genes 2"]) -> list[Html]:
    """Coloured dots and labels of the named genes, and lines to labels that stand far off."""
    worst, strongest = named_genes(change.true, change.predicted)
    chosen = [int(i) for i in (*worst, *strongest)]
    places = [(float(points[i, 0]), float(points[i, 1])) for i in chosen]
    words = [shorten(change.genes[i], _LETTERS) for i in chosen]
    boxes = place_labels(places, words, Box(_LEFT, _TOP, _RIGHT + 6, _BOTTOM))
    lines, marks = [], []
    for rank, (i, place, word, box) in enumerate(zip(chosen, places, words, boxes, strict=True)):
        hover = (
            f"{change.genes[i]}: true {change.true[i]:+.3f}, predicted {change.predicted[i]:+.3f}"
        )
        marks.append(dot(*place, 3, REAL if rank < len(worst) else PREDICTED, hover))
        if box is not None:
            lines.append(_leader(place, box))
            marks.append(text(box.left + 1, box.bottom - 3, word, size=10.5, fill=INK, halo=True))
    return [tag("g", *lines), tag("g", *marks)]


def _leader(place: tuple[float, float], box: Box) -> Html | None:
    """A line to the nearest point of a label; none where they nearly touch."""
    x = min(max(place[0], box.left), box.right)
    y = min(max(place[1], box.top), box.bottom)
    far = (x - place[0]) ** 2 + (y - place[1]) ** 2 > 11**2
    return line(*place, x, y, MUTED, 0.7) if far else None
