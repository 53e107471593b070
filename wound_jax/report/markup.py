"""Markup that escapes by default: text from the data can never become a tag.

    tag("td", "a < b", class_="n")  ->  <td class="n">a &lt; b</td>

Only `Html`, which `tag` returns, enters another tag as it is; every other value is escaped.
"""

from collections.abc import Iterable
from html import escape
from typing import Any

# Named, because in most fonts of an editor they cannot be told from a hyphen.
MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
_VOID = {"br", "img", "col", "meta"}
Child = Any


class Html(str):
    """A piece of markup that is safe to put into a page."""

    __slots__ = ()


def tag(name: str, *children: Child, **attributes: Any) -> Html:
    """One element, its children escaped unless they are `Html`.

    Args:
        name: the element's name.
        children: text, numbers, `Html` or iterables of them; None is left out.
        attributes: a trailing underscore is dropped (`class_`), others become hyphens
            (`stroke_width`); None and False leave the attribute out, True writes it bare.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[Child], between: str = "") -> Html:
    """Children one after the other, escaped unless they are `Html`."""
    return Html(escape(between).join(_piece(child) for child in children if child is not None))


def number(value: float | None, digits: int = 3) -> str:
    """A figure as text: fixed decimals, a true minus sign, and a dash where it is not defined.

    A value too small for the decimals is shown by its leading digits instead, so that 0.00043 does
    not read 0.000.
    """
    if value and abs(value) < 0.5 * 10**-digits:
        return f"{value:.1e}".replace("-", MINUS)
    return fixed(value, digits)


def fixed(value: float | None, digits: int = 3) -> str:
    """`number` without leading digits of small values; counts and thousands have no decimals."""
    if value is None or value != value:
        return DASH
    if value in (float("inf"), float("-inf")):
        return "∞" if value > 0 else MINUS + "∞"
    whole = isinstance(value, int) or abs(value) >= 1000
    text = f"{value:,.0f}" if whole else f"{value:.{digits}f}"
    # What rounds to zero has no sign.
    return text.replace("-", MINUS) if float(text.replace(",", "")) else text.lstrip("-")


def signed(value: float | None, digits: int = 3) -> str:
    """`number` with a plus in front of a value above 0."""
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0 else text


def _piece(child: Child) -> str:
    if isinstance(child, Html):
        return child
    if isinstance(child, str):
        return escape(child)
    if isinstance(child, Iterable):
        return join(child)
    return escape(str(child))


def _attribute(key: str, value: Any) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'
