"""Panels: drawn once with matplotlib, shown on the page as SVG and in a folder as PNG.

A panel is measured in pixels of the page, y downwards. On the page its colours are the page's own
variables, so that it follows light and dark; its text is text, searched and set in the page's font;
and a mark's title is shown on hovering. What would be thousands of marks is one picture inside.
"""

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup
from matplotlib import patheffects
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FixedFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import Affine2D
from PIL import Image

from wound_jax.errors import on_one_line, shown
from wound_jax.report.figures.svg import Mark, inline_svg
from wound_jax.report.words import MINUS

# The light page's colours; `svg` replaces them by the variables of style.css. The series are Okabe
# and Ito's, told apart under the common colour blindnesses.
INK, MUTED, RULE, BAD = "#1f2328", "#646b73", "#e3e1dc", "#a8420a"
# The ground of a panel; a colour of its own, because white text on a dark field stays white.
RAISED = "#fffffe"
CONTROL, REAL, PREDICTED = "#9a9a9a", "#d55e00", "#0072b2"
SERIES = (PREDICTED, REAL, "#009e73", "#b0578d", "#3a9bd9", "#c98a00")
# In widths of the line.
DASHES = ("-", (0, (3, 1.5)), (0, (1, 1.5)))
VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    BAD: "bad",
    RAISED: "raised",
    CONTROL: "control",
    REAL: "real",
    PREDICTED: "predicted",
    **{color: f"series-{i}" for i, color in enumerate(SERIES, 1) if i > 2},
}
# Pixels of a picture inside a drawing for one of the page: sharp on dense screens, half the bytes
# of 2. Pixels of a PNG file for one of the page.
_DENSITY, _PNG_DENSITY = 1.5, 2.0
_POINTS = 72
# What matplotlib warns of; a label in a script that the font lacks is no news.
_NO_LETTER = r"(?s)Glyph .*missing"


@dataclass(frozen=True)
class LegendItem:
    """What a mark or a line means.

    Attributes:
        words: its meaning.
        style: how a `Line2D` shows it.
    """

    words: str
    style: Mapping[str, Any]

    def svg(self) -> Markup:
        """A sample, 24 by 12 pixels, that readers who cannot see it do without."""
        panel = Panel(24, 12, "")
        x = (12,) if "marker" in self.style else (1, 23)
        panel.figure.add_artist(
            Line2D(x, (6,) * len(x), transform=panel.pixel_coordinates, **self.style)
        )
        return panel.svg()


def disc(words: str, color: str) -> LegendItem:
    """A dot of a colour."""
    return LegendItem(words, {"marker": "o", "ms": 9, "mfc": color, "mec": "none", "ls": "none"})


def stroke(words: str, color: str, dash: Any = "-", width: float = 2.5) -> LegendItem:
    """A line of a colour."""
    return LegendItem(words, {"color": color, "ls": dash, "lw": width, "solid_capstyle": "butt"})


class Panel:
    """One drawing.

    Attributes:
        name: what readers are told who cannot see it.
        width: in pixels.
        height: in pixels.
        figure: matplotlib's.
        pixel_coordinates: from pixels, y downwards, to the figure.
    """

    def __init__(
        self, width: float, height: float, name: str, title: str = "", subtitle: str = ""
    ) -> None:
        self.name, self.width, self.height = shown(name), width, height
        size = (width / _POINTS, height / _POINTS)
        self.figure = Figure(figsize=size, dpi=_POINTS * _DENSITY, facecolor="white")
        self.figure.patch.set_visible(False)
        pixels = Affine2D().scale(1 / _POINTS, -1 / _POINTS).translate(0, size[1])
        self.pixel_coordinates = pixels + self.figure.dpi_scale_trans
        self._marks: dict[str, Mark] = {}
        if title:
            self.text(12, 19, title, size=12, bold=True)
            self.text(12, 34, subtitle, color=MUTED)

    def text(
        self, x: float, y: float, words: str, *, size: float = 11, color: str = INK, **style: Any
    ) -> Text:
        """A line of text that starts at a pixel; `y` is its baseline."""
        weight = "bold" if style.pop("bold", False) else "normal"
        transform = style.pop("transform", self.pixel_coordinates)
        made = Text(x, y, words, fontsize=size, color=color, weight=weight)
        made.set(transform=transform, **style)
        self.figure.add_artist(made)
        return made

    def axes(
        self,
        box: tuple[float, float, float, float],
        x: tuple[float, float],
        y: tuple[float, float],
        grid: str | None = "both",
    ) -> Axes:
        """Axes without a frame.

        Args:
            box: left, top, right and bottom pixel.
            x: values at the left and right end.
            y: values at the bottom and top end.
            grid: along which axis lines lie behind the marks: "x", "y", "both" or None.
        """
        left, top, right, bottom = box
        w, h = self.width, self.height
        axes = self.figure.add_axes(
            (left / w, 1 - bottom / h, (right - left) / w, (bottom - top) / h)
        )
        axes.set(xlim=x, ylim=y, frame_on=False, axisbelow=True)
        axes.tick_params(length=0, labelsize=10.5, labelcolor=MUTED, pad=6)
        for axis, name in ((axes.xaxis, "x"), (axes.yaxis, "y")):
            axis.set_major_formatter(FuncFormatter(_tick))
            if grid in (name, "both"):
                axis.grid(color=RULE, lw=1, solid_capstyle="butt")
        return axes

    def mark(self, artist: Artist, title: str | None = None, **more: Any) -> None:
        """Gives an artist a title to be shown on hovering, or a class of style.css."""
        gid = f"mark-{len(self._marks)}"
        artist.set_gid(gid)
        self._marks[gid] = Mark(title and shown(title), **more)

    def dot(
        self,
        axes: Axes,
        at: tuple[float, float],
        radius: float,
        color: str,
        title: str | None = None,
        ring: str = "none",
    ) -> None:
        """A disc, its radius in pixels; its title is shown on hovering."""
        style = {"mfc": color, "mec": ring, "mew": 1.5 if ring != "none" else 0}
        made = Line2D(
            [at[0]], [at[1]], ls="none", marker="o", ms=2 * radius, clip_on=False, zorder=4, **style
        )
        axes.add_artist(made)
        self.mark(made, title, radius=radius)

    def halo(self, text: Text) -> None:
        """Keeps a text readable on marks."""
        self.mark(text, style="halo")
        text.set_zorder(6)

    def svg(self) -> Markup:
        """The drawing as an element of a page."""
        with self._plain_text():
            return inline_svg(self.figure, self.name, self._marks, VARIABLES)

    def pixels(self) -> UInt8[np.ndarray, "rows columns 3"]:
        """The drawing on white, as the page shows it in light."""
        self.figure.patch.set_visible(True)
        self.figure.set_dpi(_POINTS * _PNG_DENSITY)
        halos = {gid for gid, mark in self._marks.items() if mark.style == "halo"}
        for text in self.figure.findobj(Text):
            if text.get_gid() in halos:
                text.set_path_effects([patheffects.withStroke(linewidth=3, foreground="white")])
        canvas = FigureCanvasAgg(self.figure)
        with self._plain_text():
            canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()

    @contextmanager
    def _plain_text(self) -> Iterator[None]:
        """Draws text as it is: no formulas, one line each, control characters as escapes.

        Matplotlib would set what stands between two dollars as a formula, and fail where it is
        none; ticks make their texts while they are drawn.
        """
        for text in self.figure.findobj(Text):
            text.set_parse_math(False)
            text.set_text(on_one_line(text.get_text()))
        for axes in self.figure.axes:
            for formatter in (axes.xaxis.get_major_formatter(), axes.yaxis.get_major_formatter()):
                if isinstance(formatter, FixedFormatter):
                    formatter.seq = [on_one_line(words) for words in formatter.seq]
        with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", _NO_LETTER)
            yield


def limits(
    values: Iterable[float], include: Sequence[float] = (), *, log: bool = False
) -> tuple[float, float]:
    """Ends of an axis that holds all finite values, with a little room at both ends."""
    finite = [v for v in [*values, *include] if math.isfinite(v) and (v > 0 or not log)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if log:
        room = max((high / low) ** 0.05, 1.05)
        return low / room, high * room
    room = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    return low - room, high + room


def round_ticks(axes: Axes, name: str, wanted: int = 5) -> None:
    """Puts few round ticks on an axis, on a logarithmic one at equal ratios."""
    axis = axes.xaxis if name == "x" else axes.yaxis
    low, high = sorted(axis.get_view_interval())
    locator = MaxNLocator(wanted, steps=[1, 2, 5, 10])
    if axis.get_scale() == "log":
        axis.set_major_formatter(FuncFormatter(_tick))
        axis.set_minor_formatter(NullFormatter())
        if high / low > 8:
            locator = LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 200 else (1.0,))
    axis.set_major_locator(locator)


def write_png(
    path: Path, panels: Sequence[Panel], legend: Sequence[LegendItem] = (), caption: str = ""
) -> None:
    """Writes panels side by side, what their marks mean above, and a sentence below."""
    images = [panel.pixels() for panel in panels]
    height = max(len(image) for image in images)
    row = np.hstack([_fill(image, height, image.shape[1]) for image in images])
    width = row.shape[1] / _PNG_DENSITY
    strips = [_legend_strip(legend, width), _caption_strip(caption, width)]
    above, below = (_fill(s.pixels(), round(s.height * _PNG_DENSITY), row.shape[1]) for s in strips)
    Image.fromarray(np.vstack([above, row, below])).save(path, "PNG", optimize=True)


@cache
def text_width(words: str, size: float = 11, *, bold: bool = False) -> float:
    """Room of a text in pixels, set in DejaVu Sans, which is wider than what most pages use."""
    font = FontProperties(family="DejaVu Sans", size=size, weight="bold" if bold else "normal")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _NO_LETTER)
        return float(text_to_path.get_text_width_height_descent(on_one_line(words), font, False)[0])


def shorten(words: str, letters: int) -> str:
    """At most so many letters, the rest an ellipsis; the full name belongs into a title."""
    return words if len(words) <= letters else words[: letters - 1] + "…"


def _tick(value: float, _: int | None = None) -> str:
    """A tick's label: no trailing zeros, a true minus."""
    return f"{value:g}".replace("-", MINUS) if abs(value) < 10_000 else f"{value:,.0f}"


def _fill(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The picture with white below and to the right, or cut there."""
    image = image[:rows, :columns]
    room = ((0, rows - image.shape[0]), (0, columns - image.shape[1]), (0, 0))
    return np.pad(image, room, constant_values=255)


def _legend_strip(legend: Sequence[LegendItem], width: float) -> Panel:
    """A panel that holds a legend in as many columns as there is room for."""
    widest = max((text_width(item.words) for item in legend), default=0.0) + 52
    columns = max(1, min(len(legend), int(width / widest)))
    panel = Panel(width, 12 + 20 * math.ceil(len(legend) / columns), "")
    if legend:
        handles = [Line2D([], [], label=item.words, **item.style) for item in legend]
        panel.figure.legend(
            handles=handles, loc="center", ncols=columns, frameon=False, fontsize=11
        )
    return panel


def _caption_strip(caption: str, width: float) -> Panel:
    """A panel that holds a sentence in as many lines as it needs."""
    lines = [""]
    for word in caption.split():
        longer = f"{lines[-1]} {word}".strip()
        if text_width(longer) > width - 24:
            lines.append(word)
        else:
            lines[-1] = longer
    panel = Panel(width, 14 + 16 * len(lines), "")
    for i, line in enumerate(lines):
        panel.text(12, 16 + 16 * i, line, color=MUTED)
    return panel
