"""What a page is made of: sections of tables, figures and notes, and how each becomes markup.

A table is the one source of both the page and its CSV file: the page shows rounded figures, the
file has them in full.
"""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from wound_jax.report.markup import DASH, Html, number, signed, tag

# "interval" is a difference with its bounds, "range" a figure with its bounds.
Kind = Literal["text", "code", "number", "signed", "interval", "range", "verdict"]
_BOUNDED = ("interval", "range")
# Letters of a text that stays on one line, and of one that needs a wide column.
_SHORT, _LONG = 26, 40
# Rows of a table that is scrolled rather than shown at its full height.
_TALL = 30

# Verdict -> (class, sign); the sign carries the verdict where colour does not.
VERDICTS = {
    "outstanding": ("outstanding", "★"),
    "high pass": ("high", "✔✔"),
    "pass": ("pass", "✔"),
    "fail": ("fail", "✘"),
    "cannot be computed": ("none", DASH),
}


class Block(Protocol):
    """Anything that a section can hold."""

    def html(self) -> Html:
        """Its markup."""
        ...


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        key: where the value lies in a row; an interval also reads `KEY_low` and `KEY_high`.
        label: heading.
        kind: how values are shown.
        help: what the column means, shown on hovering.
        digits: decimals on the page.
        place: "file" keeps a column off the page; "once" shows a value once for the rows below
            that share it.
    """

    key: str
    label: str
    kind: Kind = "text"
    help: str | None = None
    digits: int = 3
    place: Literal["page", "file", "once"] = "page"

    @property
    def keys(self) -> list[str]:
        """The columns of the CSV file."""
        bounds = ["_low", "_high"] if self.kind in _BOUNDED else []
        return [self.key, *(self.key + bound for bound in bounds)]

    def cell(self, row: Mapping[str, Any], above: Mapping[str, Any]) -> Html:
        """One cell of the page, below that of the row above."""
        value = row.get(self.key)
        if self.place == "once" and above.get(self.key) == value:
            return tag("td", class_="again")
        if self.kind in ("text", "code"):
            shown = str(DASH if value is None else value)
            style = "short" if len(shown) <= _SHORT else "long" if len(shown) > _LONG else None
            return tag("td", tag("code", shown) if self.kind == "code" else shown, class_=style)
        if self.kind == "verdict":
            return tag("td", verdict(value))
        return tag("td", self._figure(row), class_="n")

    def _figure(self, row: Mapping[str, Any]) -> str:
        value = row.get(self.key)
        # A threshold can be a condition in words.
        if isinstance(value, str):
            return value
        shown = signed if self.kind in ("signed", "interval") else number
        if self.kind not in _BOUNDED:
            return shown(value, self.digits)
        low, high = (row.get(key) for key in self.keys[1:])
        return with_bounds(shown(value, self.digits), low, high, self.digits)


@dataclass(frozen=True)
class Table:
    """A table of a page and of a CSV file.

    Attributes:
        name: stem of the file.
        look: one sentence on what to look for.
        columns: from left to right; the first stays in sight when the table is scrolled.
        rows: one mapping each.
    """

    name: str
    look: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]

    def html(self) -> Html:
        """The table with its sentence and a link to the file."""
        columns = [column for column in self.columns if column.place != "file"]
        heads = [
            tag("th", c.label, scope="col", title=c.help, class_=_class_of(c)) for c in columns
        ]
        above = [{}, *self.rows]
        rows = [
            tag("tr", *(column.cell(row, before) for column in columns))
            for row, before in zip(self.rows, above, strict=False)
        ]
        table = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *rows))
        link = tag("a", f"{self.name}.csv", href=f"tables/{self.name}.csv", class_="file")
        style = "scroll tall" if len(self.rows) > _TALL else "scroll"
        label = {"role": "region", "aria_label": self.look, "tabindex": "0"}
        scroll = tag("div", table, class_=style, **label)
        return tag("div", tag("p", self.look, " ", link, class_="look"), scroll, class_="block")

    def write_csv(self, folder: Path) -> None:
        """Writes `folder/NAME.csv`; what is not defined is empty."""
        keys = [key for column in self.columns for key in column.keys]
        with (folder / f"{self.name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(keys)
            writer.writerows([[_plain(row.get(key)) for key in keys] for row in self.rows])


@dataclass(frozen=True)
class Figure:
    """Drawings that share one sentence and one legend.

    Attributes:
        panels: SVG drawings, side by side where there is room.
        look: one sentence on what to look for.
        legend: what colours and marks mean; None where the drawing says it.
    """

    panels: Sequence[Html]
    look: str
    legend: Html | None = None

    def html(self) -> Html:
        """The figure with its caption above, so that it is read first."""
        caption = tag("figcaption", self.look)
        return tag("figure", caption, self.legend, tag("div", *self.panels, class_="panels"))


@dataclass(frozen=True)
class Note:
    """A paragraph: text, or markup made by `tag`."""

    text: str
    style: Literal["plain", "absent", "headline"] = "plain"

    def html(self) -> Html:
        """The paragraph."""
        return tag("p", self.text, class_=self.style)


@dataclass(frozen=True)
class Fold:
    """Blocks that are opened by a click, under a title."""

    title: str
    blocks: Sequence[Block]
    open: bool = False

    def html(self) -> Html:
        """The folded blocks."""
        content = (block.html() for block in self.blocks)
        return tag("details", tag("summary", self.title), *content, open=self.open)


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        id: anchor.
        title: heading.
        blocks: from top to bottom.
    """

    id: str
    title: str
    blocks: Sequence[Block]

    def html(self) -> Html:
        """The section."""
        content = (block.html() for block in self.blocks)
        return tag("section", tag("h2", self.title), *content, id=self.id)

    def tables(self) -> Iterator[Table]:
        """All its tables, the folded ones too."""
        return _tables(self.blocks)


def absent(id: str, title: str, reason: str) -> Section:
    """A section that the data at hand do not allow, and why."""
    return Section(id, title, [Note(f"Not shown: {reason}", "absent")])


def verdict(value: str | None) -> Html:
    """A verdict as a badge, readable without colour."""
    name = value or "cannot be computed"
    style, sign = VERDICTS.get(name, ("none", DASH))
    return tag("span", tag("span", sign, aria_hidden="true"), " ", name, class_=f"badge {style}")


def with_bounds(figure: str, low: float | None, high: float | None, digits: int = 3) -> Html:
    """`+0.07 [0.02, 0.12]`; the brackets are left out where there are no bounds."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return tag("span", figure)
    bounds = f"[{number(low, digits)}, {number(high, digits)}]"
    return tag("span", figure, " ", tag("span", bounds, class_="bounds"))


def _tables(blocks: Sequence[Block]) -> Iterator[Table]:
    for block in blocks:
        if isinstance(block, Table):
            yield block
        elif isinstance(block, Fold):
            yield from _tables(block.blocks)


def _class_of(column: Column) -> str | None:
    return "n" if column.kind in ("number", "signed", *_BOUNDED) else None


def _plain(value: Any) -> Any:
    undefined = value is None or (isinstance(value, float) and not math.isfinite(value))
    return "" if undefined else value
