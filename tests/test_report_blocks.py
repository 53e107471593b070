"""Markup that escapes, figures as text, and tables that say the same on page and in file."""

import csv
import math
from html.parser import HTMLParser

import pytest

from wound_jax.report.blocks import Column, Fold, Note, Section, Table, absent, verdict
from wound_jax.report.markup import Html, join, number, signed, tag

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


def test_text_and_attributes_are_escaped():
    seen = Seen(tag("td", HOSTILE, title=HOSTILE))
    assert seen.tags == ["td"]
    assert seen.attributes == [("title", HOSTILE)]
    assert seen.text == HOSTILE


def test_only_markup_of_tag_enters_as_it_is():
    seen = Seen(tag("p", tag("b", "a"), ["<i>", None, 3], Html("<br>")))
    assert seen.tags == ["p", "b", "br"]
    assert seen.text == "a<i>3"
    assert join(["a", "b"], "<") == "a&lt;b"


def test_attributes():
    made = tag("th", class_="n", stroke_width=2, open=True, title=None, hidden=False)
    assert made == '<th class="n" stroke-width="2" open></th>'


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


def test_the_page_shows_the_same_rounded():
    seen = Seen(Table("made", "look", COLUMNS, ROWS).html())
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
    texts = [Seen(verdict(name)).text for name in names]
    assert all(name in text for name, text in zip(names, texts, strict=True))
    assert len({text.split()[0] for text in texts}) == len(names), "each has a sign of its own"
    assert "cannot be computed" in Seen(verdict(None)).text


def test_a_section_gives_its_tables_the_folded_ones_too():
    one, two = (Table(name, "look", COLUMNS, ROWS) for name in ("one", "two"))
    section = Section("id", "title", [one, Fold("more", [Note("text"), two])])
    assert [table.name for table in section.tables()] == ["one", "two"]
    assert Seen(section.html()).tags.count("table") == 2


def test_an_absent_section_says_why():
    seen = Seen(absent("id", "Maps", f"no file {HOSTILE}").html())
    assert seen.text == f"MapsNot shown: no file {HOSTILE}"
    assert ("class", "absent") in seen.attributes
