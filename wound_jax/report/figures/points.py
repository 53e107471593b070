"""Clouds of many points with a few names: genes by their delta, cells on a UMAP."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from wound_jax.evaluation.mixing import CellMap
from wound_jax.report.figures.drawing import (
    INK,
    MUTED,
    PREDICTED,
    REAL,
    LegendItem,
    Panel,
    disc,
    limits,
    round_ticks,
    shorten,
    text_width,
)

_WIDTH, _HEIGHT, _BOX = 312, 322, (46, 60, 300, 278)
_NAMED, _LETTERS = 5, 16
GENE_COLOR = "#7d858d"
_MAP_SIZE, _MAP_TOP, _MAP_MARGIN = 380, 46, 12
# A picture cannot follow the page: middle tones, readable in light and in dark.
MAP_COLORS = {"control": "#9a9a9a", "treated": "#dd6a1a", "predicted": "#1c86c8"}
# Ways out from a point, nearest first: right, left, above, below, then the diagonals.
_ANGLES = (0, 180, 270, 90, 315, 225, 45, 135)
_DISTANCES = (7.0, 13.0, 20.0, 30.0, 42.0, 56.0)


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "Box") -> bool:
        """Whether two rectangles share any area."""
        apart = (
            self.right <= other.left
            or other.right <= self.left
            or self.bottom <= other.top
            or other.bottom <= self.top
        )
        return not apart

    def holds(self, other: "Box") -> bool:
        """Whether another rectangle lies inside."""
        return (
            self.left <= other.left
            and other.right <= self.right
            and self.top <= other.top
            and other.bottom <= self.bottom
        )


@dataclass(frozen=True, eq=False)
class GeneDeltas:
    """The deltas of one stratum.

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
    """The worst misses and the largest true deltas that are not among them, largest first."""
    worst = np.argsort(-np.abs(predicted - true), kind="stable")[:_NAMED]
    strongest = np.argsort(-np.abs(true), kind="stable")
    return worst, strongest[~np.isin(strongest, worst)][:_NAMED]


def draw_scatter(deltas: GeneDeltas) -> Panel:
    """True against predicted delta, a dot a gene, both on one scale: the diagonal is perfect."""
    name = f"{deltas.title}: true and predicted delta of each gene"
    panel = Panel(_WIDTH, _HEIGHT, name, shorten(deltas.title, 40), deltas.subtitle)
    ends = limits(np.concatenate([deltas.true, deltas.predicted]), [0.0])
    axes = panel.axes(_BOX, ends, ends)
    round_ticks(axes, "x")
    round_ticks(axes, "y")
    axes.set_xlabel("true delta (mean treated minus mean control)", fontsize=11, color=MUTED)
    panel.text(_BOX[0], _BOX[1] - 8, "predicted delta", color=MUTED)
    axes.plot(ends, ends, color=MUTED, lw=1, ls=(0, (4, 3)))
    scatter(axes, np.stack([deltas.true, deltas.predicted], axis=1), [GENE_COLOR], 1.6, 0.6)
    _name_genes(panel, axes, deltas)
    return panel


def scatter(
    axes: Axes,
    points: Float[np.ndarray, "points 2"],
    colors: Sequence[str] | np.ndarray,
    radius: float,
    opacity: float,
) -> None:
    """Dots as one picture: thousands of circles would make a page slow and heavy.

    Args:
        axes: where to.
        points: values.
        colors: one for each point, or one for all.
        radius: of a dot, in pixels.
        opacity: of a dot.
    """
    # In random order, so that no group covers another.
    order = np.random.default_rng(0).permutation(len(points))
    chosen = np.broadcast_to(np.asarray(colors), len(points))[order]
    size = (2 * radius) ** 2
    axes.scatter(*points[order].T, c=chosen, s=size, alpha=opacity, lw=0, rasterized=True, zorder=3)


def _name_genes(panel: Panel, axes: Axes, deltas: GeneDeltas) -> None:
    """Coloured dots and labels of the named genes, and lines to labels that stand far off."""
    worst, strongest = named_genes(deltas.true, deltas.predicted)
    chosen = [int(i) for i in (*worst, *strongest)]
    places = _pixels(panel, axes, [(deltas.true[i], deltas.predicted[i]) for i in chosen])
    words = [shorten(deltas.genes[i], _LETTERS) for i in chosen]
    left, top, right, bottom = _BOX
    boxes = place_labels(places, words, Box(left, top, right + 6, bottom))
    for rank, (i, place, word, box) in enumerate(zip(chosen, places, words, boxes, strict=True)):
        true, predicted = float(deltas.true[i]), float(deltas.predicted[i])
        hover = f"{deltas.genes[i]}: true {true:+.3f}, predicted {predicted:+.3f}"
        color = REAL if rank < len(worst) else PREDICTED
        panel.dot(axes, (true, predicted), 3, color, hover)
        if box is not None:
            _draw_leader(panel, place, box)
            panel.halo(panel.text(box.left + 1, box.bottom - 3, word, size=10.5))


def _draw_leader(panel: Panel, place: tuple[float, float], box: Box) -> None:
    """A line to the nearest point of a label; none where they nearly touch."""
    x = min(max(place[0], box.left), box.right)
    y = min(max(place[1], box.top), box.bottom)
    if (x - place[0]) ** 2 + (y - place[1]) ** 2 > 11**2:
        ends = (place[0], x), (place[1], y)
        line = Line2D(*ends, color=MUTED, lw=0.7, transform=panel.pixel_coordinates)
        panel.figure.add_artist(line)


def draw_cell_maps(cells: CellMap) -> list[Panel]:
    """Two views of one UMAP: what the wound does to real cells, and where the predictions fall."""
    n = {name: len(getattr(cells, name)) for name in MAP_COLORS}
    real = f"{n['control']} control, {n['treated']} treated"
    predicted = f"{n['predicted']} predicted, {n['treated']} treated"
    return [
        _draw_map(cells, "Real cells", real, ("control", "treated")),
        _draw_map(cells, "Predicted on real treated", predicted, ("treated", "predicted")),
    ]


def map_legend() -> list[LegendItem]:
    """What the colours of a map are."""
    names = {"control": "real control", "treated": "real treated", "predicted": "predicted"}
    return [disc(words, MAP_COLORS[name]) for name, words in names.items()]


def _draw_map(cells: CellMap, title: str, subtitle: str, groups: tuple[str, ...]) -> Panel:
    """One view, its first group's cell types named."""
    everything = np.concatenate([cells.control, cells.treated, cells.predicted])
    right, bottom = _MAP_SIZE - _MAP_MARGIN, _MAP_TOP + _MAP_SIZE - 2 * _MAP_MARGIN
    panel = Panel(_MAP_SIZE, bottom + _MAP_MARGIN, f"UMAP: {title}, {subtitle}", title, subtitle)
    box = (_MAP_MARGIN, _MAP_TOP, right, bottom)
    axes = panel.axes(box, limits(everything[:, 0]), limits(everything[:, 1]), grid=None)
    axes.set_axis_off()
    shown = np.concatenate([getattr(cells, name) for name in groups])
    sizes = [len(getattr(cells, name)) for name in groups]
    scatter(axes, shown, np.repeat([MAP_COLORS[name] for name in groups], sizes), 1.8, 0.65)
    _name_types(panel, axes, getattr(cells, groups[0]), getattr(cells, f"{groups[0]}_type"), box)
    return panel


def _name_types(
    panel: Panel,
    axes: Axes,
    points: np.ndarray,
    labels: np.ndarray,
    box: tuple[float, float, float, float],
) -> None:
    """Writes each cell type's name at the median of its cells."""
    types = [str(name) for name in dict.fromkeys(labels)]
    medians = [tuple(np.median(points[labels == name], axis=0)) for name in types]
    words = [shorten(name, 16) for name in types]
    boxes = place_labels(_pixels(panel, axes, medians), words, Box(*box), size=11.5, cover=True)
    for box_, word in zip(boxes, words, strict=True):
        if box_ is not None:
            text = panel.text(box_.left + 1, box_.bottom - 3, word, size=11.5, bold=True, color=INK)
            panel.halo(text)


def _pixels(
    panel: Panel, axes: Axes, values: Sequence[tuple[float, float]]
) -> list[tuple[float, float]]:
    """Where values lie in the panel."""
    dots = axes.transData.transform(np.asarray(values, dtype=float))
    return [(float(x), float(y)) for x, y in panel.pixel_coordinates.inverted().transform(dots)]


def place_labels(
    points: Sequence[tuple[float, float]],
    words: Sequence[str],
    frame: Box,
    size: float = 10.5,
    *,
    cover: bool = False,
) -> list[Box | None]:
    """A box for each label, the first labels served first.

    Args:
        points: pixels of the labelled points.
        words: one label for each.
        frame: where labels may lie.
        size: font size.
        cover: whether labels may lie on the points, as names of regions do.

    Returns:
        One box for each label, none of them meeting another or, unless `cover`, any of the points;
        None for a label that found no place near its point.
    """
    taken = [] if cover else [Box(x - 3, y - 3, x + 3, y + 3) for x, y in points]
    placed: list[Box | None] = []
    for point, label in zip(points, words, strict=True):
        box = next(
            (
                box
                for box in _candidates(point, text_width(label, size), size + 2, cover)
                if frame.holds(box) and not any(box.meets(other) for other in taken)
            ),
            None,
        )
        placed.append(box)
        if box is not None:
            taken.append(box)
    return placed


def _candidates(
    point: tuple[float, float], width: float, height: float, cover: bool
) -> Iterator[Box]:
    """Boxes around a point, nearest first; the one on it where that is allowed."""
    x, y = point
    if cover:
        yield _box_around(x, y, width, height)
    for distance in _DISTANCES:
        for angle in _ANGLES:
            cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            # The edge, not the middle, stands at the distance.
            middle_x = x + cos * distance + _sign(cos) * width / 2
            middle_y = y + sin * distance + _sign(sin) * height / 2
            yield _box_around(middle_x, middle_y, width, height)


def _box_around(x: float, y: float, width: float, height: float) -> Box:
    return Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _sign(value: float) -> float:
    return 0.0 if abs(value) < 1e-9 else math.copysign(1.0, value)
