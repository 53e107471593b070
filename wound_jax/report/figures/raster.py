"""Many points as one picture: thousands of SVG circles would make a page slow and heavy."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from wound_jax.report.markup import Html, tag

# Pixels of the picture for one of the page: sharp on dense screens at half the bytes of 2.
_DENSITY = 1.5
_PALETTE = 32


def raster(
    points: Float[np.ndarray, "points 2"],
    colors: Sequence[str] | np.ndarray,
    box: tuple[float, float, float, float],
    radius: float = 1.6,
    opacity: float = 0.6,
) -> Html:
    """Dots on a transparent ground, as an image inside an SVG drawing.

    Args:
        points: [points, 2], pixels of the drawing; what lies outside the box is cut.
        colors: one for each point.
        box: left, top, width, height in pixels of the drawing.
        radius: of a dot, in pixels.
        opacity: of a dot.
    """
    left, top, width, height = box
    dpi = 72 * _DENSITY
    figure = Figure(figsize=(width / 72, height / 72), dpi=dpi)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(left, left + width)
    axes.set_ylim(top + height, top)
    # In random order, so that no group covers another.
    order = np.random.default_rng(0).permutation(len(points))
    chosen = np.asarray(colors)[order]
    axes.scatter(*points[order].T, c=chosen, s=(2 * radius) ** 2, alpha=opacity, lw=0)
    encoded = base64.b64encode(_png(figure)).decode("ascii")
    place = {"x": f"{left:g}", "y": f"{top:g}", "width": f"{width:g}", "height": f"{height:g}"}
    return tag("image", href=f"data:image/png;base64,{encoded}", **place)


def _png(figure: Figure) -> bytes:
    """The figure without its ground, in a palette of few colours: a fifth of the bytes."""
    figure.patch.set_alpha(0.0)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba()))
    with io.BytesIO() as file:
        # Of the methods of Pillow this one alone keeps transparency.
        few = picture.quantize(_PALETTE, method=Image.Quantize.FASTOCTREE)
        few.save(file, "PNG", optimize=True)
        return file.getvalue()
