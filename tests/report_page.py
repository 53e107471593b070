"""Reads a page strictly, and the files beside it."""

import csv
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

SECTIONS = {
    "summary", "scorecard", "results", "strata", "genes", "maps", "macrophages", "markers", "time",
    "training", "parameters", "settings", "provenance", "terms",
}  # fmt: skip
# Elements without an end tag.
VOID = {"meta", "br", "img", "col"}


class Page(HTMLParser):
    """Reads a page strictly: every element is closed, in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.sections: dict[str, str] = {}
        self.section = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "section":
            self.section = dict(attrs)["id"] or ""
            self.sections[self.section] = ""
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.section:
            self.sections[self.section] += data + " "

    def values(self, *names: str) -> list[str]:
        return [value for _, name, value in self.attributes if name in names]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def result_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "eval" / "metrics.json").read_text())


def change_result(folder: Path, change: Callable[[dict], None]) -> None:
    path = folder / "eval" / "metrics.json"
    result = json.loads(path.read_text())
    change(result)
    path.write_text(json.dumps(result))
