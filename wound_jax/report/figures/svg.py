"""SVG for a page: what matplotlib writes, made small and part of the page.

Ids, definitions and fonts go, numbers are rounded, colours become the page's variables, and marks
that were given a title or a class get it. Text stays text, escaped by the XML writer.
"""

import base64
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import matplotlib
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image

from wound_jax.errors import shown

_PALETTE = 32
_NUMBER = re.compile(r"-?\d+\.\d+")
_DROPPED = re.compile(r"font-family:[^;]*;?|stroke: #000000; stroke-opacity: 0;?")
_LINK = "{http://www.w3.org/1999/xlink}href"
# Matplotlib names no colour that is black.
_KEPT = ("d", "x", "y", "width", "height")


@dataclass(frozen=True)
class Mark:
    """What the page adds to a mark.

    Attributes:
        title: shown on hovering.
        style: a class of style.css.
        radius: of a disc, which is written as a circle; None for any other mark.
    """

    title: str | None = None
    style: str | None = None
    radius: float | None = None


def inline_svg(
    figure: Figure, name: str, marks: Mapping[str, Mark], variables: Mapping[str, str]
) -> Markup:
    """A figure as an `svg` element.

    Args:
        figure: one point is one pixel of the page.
        name: what readers are told who cannot see it; without one they are told nothing.
        marks: id of an artist -> what the page adds to it.
        variables: colour, as in "#d55e00" -> variable of style.css.
    """
    written = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "page"}):
        FigureCanvasSVG(figure).print_svg(written, metadata={"Date": None})
    # Texts are on the drawing and in comments; XML has no control characters.
    source = ET.fromstring(shown(written.getvalue()))
    shapes = {e.get("id"): e for e in source.iter() if _tag(e) == "path" and e.get("id")}
    width, height = (size * 72 for size in figure.get_size_inches())
    box = {"viewBox": f"0 0 {width:g} {height:g}", "width": f"{width:g}"}
    label = {"role": "img", "aria-label": name} if name else {"aria-hidden": "true"}
    made = ET.Element("svg", box | label)
    made.extend(_children(source, marks, shapes, variables))
    return Markup(ET.tostring(made, encoding="unicode"))


def _children(
    parent: ET.Element,
    marks: Mapping[str, Mark],
    shapes: Mapping[str | None, ET.Element],
    variables: Mapping[str, str],
    mark: Mark | None = None,
) -> Iterator[ET.Element]:
    """What is drawn below an element, without the groups that say nothing."""
    for element in parent:
        tag = _tag(element)
        own = marks.get(element.get("id", ""), mark)
        if tag == "g":
            inside = list(_children(element, marks, shapes, variables, own))
            titled = own is not None and own is not mark and own.title
            yield from [_titled(titled, inside)] if titled else inside
        elif tag in ("path", "use", "text", "image"):
            yield _element(element, tag, own or Mark(), shapes, variables)


def _titled(title: str, inside: list[ET.Element]) -> ET.Element:
    group = ET.Element("g")
    ET.SubElement(group, "title").text = title
    group.extend(inside)
    return group


def _element(
    element: ET.Element,
    tag: str,
    mark: Mark,
    shapes: Mapping[str | None, ET.Element],
    variables: Mapping[str, str],
) -> ET.Element:
    """One mark as the page has it."""
    kept = {key: _rounded(element.get(key, "")) for key in _KEPT if key in element.attrib}
    if tag == "image":
        return ET.Element("image", kept | _picture(element))
    if tag == "use":
        place = _rounded(element.get("x", "0")), _rounded(element.get("y", "0"))
        tag, kept = "path", {"transform": f"translate({place[0]} {place[1]})"}
        if mark.radius is not None:
            tag, kept = "circle", {"cx": place[0], "cy": place[1], "r": f"{mark.radius:g}"}
        else:
            kept["d"] = _rounded(shapes[element.get(_LINK, "")[1:]].get("d", ""))
    made = ET.Element(tag, kept)
    style = _DROPPED.sub("", element.get("style", ""))
    for color, variable in variables.items():
        style = style.replace(color, f"var(--{variable})")
    made.set("style", " ".join(style.split()).rstrip("; "))
    if mark.style:
        made.set("class", mark.style)
    made.text = element.text if tag == "text" else None
    return made


def _picture(element: ET.Element) -> dict[str, str]:
    """The picture in a palette of few colours: a fifth of the bytes."""
    encoded = element.get(_LINK, "").partition("base64,")[2]
    picture = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGBA")
    with io.BytesIO() as file:
        # Of the methods of Pillow this one alone keeps transparency.
        few = picture.quantize(_PALETTE, method=Image.Quantize.FASTOCTREE)
        few.save(file, "PNG", optimize=True)
        encoded = base64.b64encode(file.getvalue()).decode("ascii")
    return {"href": f"data:image/png;base64,{encoded}", "transform": element.get("transform", "")}


def _rounded(text: str) -> str:
    """Numbers to a tenth of a pixel, on one line."""
    shorter = _NUMBER.sub(lambda found: f"{float(found[0]):.1f}".removesuffix(".0"), text)
    return " ".join(shorter.split())


def _tag(element: ET.Element) -> str:
    """The name without its namespace."""
    return element.tag.rpartition("}")[2]
