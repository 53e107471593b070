"""Markup that escapes, numbers as text, and tables that say the same on page and in file."""

import csv
import dataclasses
import math
from html.parser import HTMLParser
from typing import Any

import pytest

from wound_jax.files import inert
from wound_jax.report.blocks import (
    Column,
    Definitions,
    Figure,
    Fold,
    Note,
    Section,
    Table,
    Tiles,
    Warnings,
    absent,
)
from wound_jax.report.figures.drawing import Panel, disc
from wound_jax.report.page import render_block
from wound_jax.report.words import counted, interval, number, signed

pytestmark = pytest.mark.quick

HOSTILE = '<script>alert(\'x\')</script> " onload="a()" & </td>'


class Seen(HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


HOSTILE_BLOCKS = [
    Note(HOSTILE),
    Tiles([(HOSTILE, HOSTILE, HOSTILE)]),
    Warnings([HOSTILE]),
    Definitions(HOSTILE, [(HOSTILE, HOSTILE, HOSTILE), (HOSTILE, "name", HOSTILE)]),
    Fold(HOSTILE, [Note(HOSTILE)]),
    Figure([Panel(40, 40, HOSTILE, HOSTILE, HOSTILE)], HOSTILE, [disc(HOSTILE, "#d55e00")]),
    *(
        Table(HOSTILE, HOSTILE, [Column("a", HOSTILE, kind, HOSTILE)], [{"a": HOSTILE}])
        for kind in ("text", "code", "number", "interval", "verdict")
    ),
]


@pytest.mark.parametrize("block", HOSTILE_BLOCKS, ids=lambda block: block.kind)
def test_text_and_attributes_are_escaped(block):
    """Text from the data can never become a tag, in whichever kind of block."""
    hostile, harmless = Seen(render_block(block)), Seen(render_block(_harmless(block)))
    assert hostile.tags == harmless.tags
    assert [name for name, _ in hostile.attributes] == [name for name, _ in harmless.attributes]
    assert hostile.text.count(HOSTILE) == harmless.text.count("harmless")
    values = [value or "" for _, value in hostile.attributes]
    calm = [value or "" for _, value in harmless.attributes]
    assert [v.count(HOSTILE) for v in values] == [v.count("harmless") for v in calm]
    assert HOSTILE in hostile.text


def _harmless(value: Any) -> Any:
    """The same with a word instead of the hostile text."""
    if isinstance(value, Panel):
        return Panel(40, 40, "harmless", "harmless", "harmless")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _harmless(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return type(value)(**fields)
    if isinstance(value, (list, tuple)):
        return type(value)(_harmless(one) for one in value)
    if isinstance(value, dict):
        return {key: _harmless(one) for key, one in value.items()}
    return "harmless" if value == HOSTILE else value


def test_attributes():
    assert Seen(render_block(Fold("a", []))).attributes == []
    assert Seen(render_block(Fold("a", [], open=True))).attributes == [("open", None)]
    column = Column("a", "a", "number")
    heads = Seen(render_block(Table("t", "l", [column, Column("b", "b", help="h")], [])))
    assert ("class", "n") in heads.attributes, "numbers are set to the right"
    assert [value for name, value in heads.attributes if name == "title"] == ["h"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.12345, "0.123"),
        (-0.5, "\N{MINUS SIGN}0.500"),
        (0.0, "0.000"),
        (0.00021, "2.1e\N{MINUS SIGN}04"),
        (1234.5, "1,234"),
        (25_220_096, "25,220,096"),
        (7, "7"),
        (None, "\N{EN DASH}"),
        (math.nan, "\N{EN DASH}"),
        (math.inf, "∞"),
    ],
)
def test_numbers(value, shown):
    assert number(value) == shown


def test_bounds_and_counts():
    assert interval(-0.5, 0.25, 2) == "[\N{MINUS SIGN}0.50, 0.25]"
    assert interval(None, 0.25) == interval(0.25, math.nan) == ""
    assert (counted(1, "run", "runs"), counted(2, "run", "runs")) == ("1 run", "2 runs")


def test_signed_numbers():
    assert signed(0.25, 2) == "+0.25"
    assert signed(-0.25, 2) == "\N{MINUS SIGN}0.25"
    assert signed(0.0) == "0.000"
    assert signed(math.nan) == "\N{EN DASH}"


COLUMNS = [
    Column("name", "name", place="once"),
    Column("value", "value", "number", "a <figure>"),
    Column("gap", "gap", "interval"),
    Column("verdict", "verdict", "verdict"),
    Column("hidden", "hidden", place="file"),
]
ROWS = [
    {"name": HOSTILE, "value": 1 / 3, "gap": 0.25, "gap_low": 0.1, "gap_high": 0.4, "hidden": 1},
    {"name": HOSTILE, "value": math.nan, "gap": -0.5, "gap_low": None, "gap_high": None},
    {"name": "other", "value": None, "gap": 0.5, "gap_low": math.nan, "verdict": "pass"},
]


def test_the_file_holds_what_the_rows_hold_in_full(tmp_path):
    Table("made", "look", COLUMNS, ROWS).write_csv(tmp_path)
    with (tmp_path / "made.csv").open(newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    assert header == ["name", "value", "gap", "gap_low", "gap_high", "verdict", "hidden"]
    assert lines[0] == [HOSTILE, repr(1 / 3), "0.25", "0.1", "0.4", "", "1"]
    assert lines[1] == [HOSTILE, "", "-0.5", "", "", "", ""]
    assert lines[2] == ["other", "", "0.5", "", "", "pass", ""]


@pytest.mark.parametrize("text", ["=1+1", "+a", "-a", "@a", "\t=a", "\uff1da", "--1"])
def test_a_formula_in_a_file_is_text(text, tmp_path):
    Table("made", "look", COLUMNS, [{"name": text, "value": -0.5}]).write_csv(tmp_path)
    with (tmp_path / "made.csv").open(newline="", encoding="utf-8") as file:
        _, line = csv.reader(file)
    assert line[:2] == [f"'{text}", "-0.5"]


@pytest.mark.parametrize("value", ["-1", "+0.5", "-1e-3", -2, -0.25, None, "a=b", "", True])
def test_numbers_and_other_text_stay(value):
    assert inert(value) is value


def test_the_page_shows_the_same_rounded():
    seen = Seen(render_block(Table("made", "look", COLUMNS, ROWS)))
    assert seen.tags.count("tr") == 4
    assert seen.tags.count("th") == 4, "a column of the file alone is not on the page"
    assert "script" not in seen.tags
    assert seen.text.count(HOSTILE) == 1, "a value that repeats is shown once"
    for shown in ("0.333", "+0.250", "[0.100, 0.400]", "\N{MINUS SIGN}0.500", "✔", "pass"):
        assert shown in seen.text
    assert "nan" not in seen.text
    assert ("href", "tables/made.csv") in seen.attributes
    assert ("title", "a <figure>") in seen.attributes


def test_verdicts_are_readable_without_colour():
    names = ("outstanding", "high pass", "pass", "fail", "cannot be computed")
    texts = [verdict(name) for name in names]
    assert all(name in text for name, text in zip(names, texts, strict=True))
    assert len({text.split()[0] for text in texts}) == len(names), "each has a sign of its own"
    assert "cannot be computed" in verdict(None)


def verdict(value: str | None) -> str:
    """A verdict as the page tells it."""
    column = Column("v", "", "verdict")
    text = Seen(render_block(Table("t", "", [column], [{"v": value}]))).text
    return text.partition("t.csv")[2].strip()


def test_a_section_gives_its_tables_the_folded_ones_too():
    one, two = (Table(name, "look", COLUMNS, ROWS) for name in ("one", "two"))
    section = Section("id", "title", [one, Fold("more", [Note("text"), two])])
    assert [table.name for table in section.tables()] == ["one", "two"]
    assert Seen(render_block(section)).tags.count("table") == 2


def test_an_absent_section_says_why():
    seen = Seen(render_block(absent("id", "Maps", f"no file {HOSTILE}")))
    assert seen.text.split("\n", 2)[1:] == ["Maps", f"Not shown: no file {HOSTILE}\n\n\n"]
    assert ("class", "absent") in seen.attributes
