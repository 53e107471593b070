"""What a page is made of, as plain data; templates/blocks.html has the markup of each.

A table is the one source of both the page and its CSV file: the page shows rounded numbers, the
file has them in full.
"""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from wound_jax.files import inert, replacing
from wound_jax.report.figures.drawing import LegendItem, Panel
from wound_jax.report.load import Study
from wound_jax.report.words import DASH, interval, number, signed

# "interval" is a difference with its bounds, "range" a number with its bounds.
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

    @property
    def is_text(self) -> bool:
        """Whether the values are words."""
        return self.kind in ("text", "code")

    def repeats(self, row: Mapping[str, Any], above: Mapping[str, Any]) -> bool:
        """Whether the row above has shown the value already."""
        return self.place == "once" and above.get(self.key) == row.get(self.key)

    def shown(self, row: Mapping[str, Any]) -> str:
        """The value on the page, without its bounds."""
        value = row.get(self.key)
        if self.is_text or isinstance(value, str):
            # A threshold can be a condition in words.
            return str(DASH if value is None else value)
        return (signed if self.kind in ("signed", "interval") else number)(value, self.digits)

    def bounds(self, row: Mapping[str, Any]) -> str:
        """The bounds on the page; nothing where there are none."""
        if self.kind not in _BOUNDED:
            return ""
        low, high = (row.get(key) for key in self.keys[1:])
        return interval(low, high, self.digits)

    def width(self, row: Mapping[str, Any]) -> str:
        """The class of a text by its length."""
        letters = len(self.shown(row))
        return "short" if letters <= _SHORT else "long" if letters > _LONG else ""


@dataclass(frozen=True)
class Table:
    """A table of a page and of a CSV file.

    Attributes:
        name: stem of the file.
        look: one sentence on what to look for.
        columns: from left to right; the first stays in sight when the table is scrolled.
        rows: one mapping each.
    """

    kind: ClassVar = "table"
    name: str
    look: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]

    @property
    def on_page(self) -> list[Column]:
        """The columns that the page shows."""
        return [column for column in self.columns if column.place != "file"]

    @property
    def is_tall(self) -> bool:
        """Whether it is scrolled rather than shown at its full height."""
        return len(self.rows) > _TALL

    def write_csv(self, folder: Path) -> None:
        """Writes `folder/NAME.csv`; what is not defined is empty."""
        keys = [key for column in self.columns for key in column.keys]
        with (
            replacing(folder / f"{self.name}.csv") as part,
            part.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(keys)
            writer.writerows([[_plain(row.get(key)) for key in keys] for row in self.rows])


@dataclass(frozen=True)
class Figure:
    """Panels that share one sentence and one legend.

    Attributes:
        panels: side by side where there is room.
        look: one sentence on what to look for.
        legend: what colours and marks mean; empty where the panels say it.
    """

    kind: ClassVar = "figure"
    panels: Sequence[Panel]
    look: str
    legend: Sequence[LegendItem] = ()


@dataclass(frozen=True)
class Note:
    """A paragraph."""

    kind: ClassVar = "note"
    text: str
    style: Literal["plain", "absent", "headline"] = "plain"


@dataclass(frozen=True)
class Tiles:
    """A few large numbers side by side.

    Attributes:
        tiles: (what, number, what stands beside it).
    """

    kind: ClassVar = "tiles"
    tiles: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Warnings:
    """A marked list of warnings.

    Attributes:
        texts: at least one.
    """

    kind: ClassVar = "warnings"
    texts: Sequence[str]


@dataclass(frozen=True)
class Definitions:
    """A list of names with their meanings; each can be linked to as `#term-KEY`.

    Attributes:
        title: heading of the list.
        terms: (key in the files, name on the page, meaning).
    """

    kind: ClassVar = "definitions"
    title: str
    terms: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Fold:
    """Blocks that are opened by a click, under a title."""

    kind: ClassVar = "fold"
    title: str
    blocks: Sequence["Block"]
    open: bool = False


Block = Table | Figure | Note | Tiles | Warnings | Definitions | Fold


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        id: anchor.
        title: heading.
        blocks: from top to bottom.
    """

    kind: ClassVar = "section"
    id: str
    title: str
    blocks: Sequence[Block]

    @property
    def is_absent(self) -> bool:
        """Whether it is only an excuse."""
        return all(isinstance(block, Note) and block.style == "absent" for block in self.blocks)

    def tables(self) -> Iterator[Table]:
        """All its tables, the folded ones too."""
        return _tables(self.blocks)


def absent(id: str, title: str, reason: str) -> Section:
    """A section that the data at hand do not allow, and why."""
    return Section(id, title, [Note(f"Not shown: {reason}", "absent")])


def variant_column(study: Study) -> Column:
    """The column that names the variant; of a single one the page does without."""
    return Column("variant", "variant", place="page" if len(study.variants) > 1 else "file")


def _tables(blocks: Sequence[Block]) -> Iterator[Table]:
    for block in blocks:
        if isinstance(block, Table):
            yield block
        elif isinstance(block, Fold):
            yield from _tables(block.blocks)


def _plain(value: Any) -> Any:
    undefined = value is None or (isinstance(value, float) and not math.isfinite(value))
    return "" if undefined else inert(value)
