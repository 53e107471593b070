"""Draws docs/map.svg: the rooms of the package on their floors, and which imports from which.

    python scripts/draw_map.py

Arrows go from a room to those it imports from; what is implied by a way over other rooms is left
out, so that the picture stays readable. The description inside the file lists every import between
rooms; `tests/test_map.py` compares it with the code.
"""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, PICTURE = ROOT / "wound_jax", ROOT / "docs" / "map.svg"
COMMANDS, BASE = "commands", "base"
# What a room is for, in a few words.
TITLES = {
    COMMANDS: "one thin file each",
    "experiments": "variants x seeds x folds",
    "report": "the page",
    "evaluation": "scores",
    "prediction": "network and calibration",
    "training": "setup, step, loop, log",
    "models": "set transformer, LoRA, mHC",
    "losses": "distances between sets",
    "baselines": "models without a network",
    "data": "from AnnData to sets",
    "devices": "mesh, processes",
    "config": "schema, loading, diff",
    BASE: "errors, axes, registry",
}


def rooms() -> dict[str, list[Path]]:
    """The files of each room: folders, the commands, and the base that everything stands on."""
    found: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        found.setdefault(_room_of_file(path), []).append(path)
    return found


def imports() -> dict[str, list[str]]:
    """The rooms that each room imports from, sorted."""
    found: dict[str, list[str]] = {}
    for room, files in rooms().items():
        others = {other for path in files for other in _imported_rooms(path)} - {room}
        found[room] = sorted(others)
    return found


def floors(graph: dict[str, list[str]]) -> dict[str, int]:
    """The floor of each room: one above the highest that it imports from."""
    heights: dict[str, int] = {}
    for room in TopologicalSorter(graph).static_order():
        heights[room] = 1 + max((heights[other] for other in graph[room]), default=-1)
    return heights


def description(graph: dict[str, list[str]]) -> str:
    """Every import between rooms, as text."""
    return "; ".join(f"{room}: {', '.join(others)}" for room, others in sorted(graph.items()))


def _room_of_file(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts == ("config", "__main__"):
        return COMMANDS
    if len(parts) > 1:
        # What the rooms say of their settings lies below the config that is made of it.
        return BASE if parts[-1] == "settings" else parts[0]
    return COMMANDS if "def main(" in path.read_text(encoding="utf-8") else BASE


def _imported_rooms(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wound_jax"):
            for alias in node.names:
                target = _module_file(f"{node.module}.{alias.name}") or _module_file(node.module)
                if target:
                    yield _room_of_file(target)


def _module_file(name: str | None) -> Path | None:
    base = ROOT.joinpath(*(name or "").split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _direct(graph: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
    """The arrows that no way over other rooms implies."""

    def reached(room: str) -> set[str]:
        return {room}.union(*(reached(other) for other in graph[room]))

    for room, others in graph.items():
        for other in others:
            if not any(other in reached(via) for via in others if via != other):
                yield room, other


def draw(graph: dict[str, list[str]]) -> str:
    """The picture, as SVG."""
    heights = floors(graph)
    top = max(heights.values())
    width, height, box, tall = 860, 84 * (top + 1) + 20, 190, 48
    places = {}
    for floor in range(top + 1):
        on_floor = sorted(room for room, at in heights.items() if at == floor)
        for i, room in enumerate(on_floor):
            centre = width * (i + 1) / (len(on_floor) + 1)
            places[room] = centre, height - 84 * (floor + 1) + 20
    arrows = [
        f'<path d="M{places[a][0]:.0f} {places[a][1] + tall} L{places[b][0]:.0f} '
        f'{places[b][1] - 3}" class="arrow" marker-end="url(#head)"/>'
        for a, b in sorted(_direct(graph))
    ]
    boxes = [
        f'<rect x="{x - box / 2:.0f}" y="{y}" width="{box}" height="{tall}" rx="6"/>'
        f'<text x="{x:.0f}" y="{y + 20}" class="name">{room}</text>'
        f'<text x="{x:.0f}" y="{y + 38}">{TITLES.get(room, "")}</text>'
        for room, (x, y) in sorted(places.items())
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            'font-family="sans-serif" font-size="12" text-anchor="middle">',
            f"<desc>{description(graph)}</desc>",
            "<style>rect{fill:#eef3f8;stroke:#4a6785} .name{font-weight:bold;font-size:14px} "
            ".arrow{stroke:#8899aa;fill:none}</style>",
            f'<rect width="{width}" height="{height}" style="fill:#fff;stroke:none"/>',
            '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#8899aa"/></marker>',
            *arrows,
            *boxes,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    PICTURE.write_text(draw(imports()), encoding="utf-8")
    print(f"{PICTURE.relative_to(ROOT)}: {len(rooms())} rooms")
