"""Documents that speak of the code: README's tree and the map of the rooms are those of today."""

import re
from pathlib import Path

import draw_map
import pytest

pytestmark = pytest.mark.quick

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "wound_jax"


def tree() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return text.partition("## The tree")[2].partition("```\n")[2].partition("```")[0]


def named() -> set[Path]:
    """Every file and folder that the tree names, by its place in the indentation."""
    found, parents = set(), {0: ROOT}
    for line in tree().splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        for word in line.split("  ")[depth].split() if line.strip() else ():
            for name in re.findall(r"^[\w.]+(?:/|\.py)$", word.rstrip(";:")):
                found.add(parents[depth] / name)
                if name.endswith("/"):
                    parents[depth + 1] = parents[depth] / name
    return found


def test_the_tree_names_what_is_there():
    assert len(named()) > 30
    assert not sorted(str(path) for path in named() if not path.exists())


def test_the_tree_names_every_room_and_every_command():
    rooms = {path.parent for path in PACKAGE.rglob("*.py")} - {PACKAGE, PACKAGE / "report/figures"}
    rooms -= {path for path in rooms if (PACKAGE / "report") in path.parents}
    commands = {path for path in PACKAGE.glob("*.py") if "def main(" in path.read_text()}
    missing = (rooms | commands) - named() - {PACKAGE / "__main__.py"}
    assert not sorted(str(path.relative_to(ROOT)) for path in missing)


def test_doors_are_thin_and_the_hall_is_empty():
    doors = {path.name: len(path.read_text().splitlines()) for path in PACKAGE.glob("*.py")}
    assert len(doors) <= 16
    commands = [name for name in doors if "def main(" in (PACKAGE / name).read_text()]
    assert {name: doors[name] for name in commands if doors[name] >= 100} == {}


@pytest.mark.parametrize("room", draw_map.rooms())
def test_the_map_shows_every_room(room):
    assert f">{room}</text>" in draw_map.PICTURE.read_text(encoding="utf-8")


def test_the_map_shows_the_imports_of_today():
    shown = draw_map.PICTURE.read_text(encoding="utf-8").partition("<desc>")[2].partition("</desc>")
    assert shown[0] == draw_map.description(draw_map.imports()), "run python scripts/draw_map.py"
