"""Places for labels beside points, so that no label covers another or a labelled point."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from wound_jax.report.svg import text_width

# Ways out from a point, nearest first: right, left, above, below, then the diagonals.
_ANGLES = (0, 180, 270, 90, 315, 225, 45, 135)
_DISTANCES = (7.0, 13.0, 20.0, 30.0, 42.0, 56.0)


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "Box") -> bool:
        """Whether two rectangles share any area."""
        apart = (
            self.right <= other.left
            or other.right <= self.left
            or self.bottom <= other.top
            or other.bottom <= self.top
        )
        return not apart

    def holds(self, other: "Box") -> bool:
        """Whether another rectangle lies inside."""
        return (
            self.left <= other.left
            and other.right <= self.right
            and self.top <= other.top
            and other.bottom <= self.bottom
        )


def place_labels(
    points: Sequence[tuple[float, float]],
    words: Sequence[str],
    frame: Box,
    size: float = 10.5,
    *,
    cover: bool = False,
) -> list[Box | None]:
    """A box for each label, the first labels served first.

    Args:
        points: pixels of the labelled points.
        words: one label for each.
        frame: where labels may lie.
        size: font size.
        cover: whether labels may lie on the points, as names of regions do.

    Returns:
        One box for each label, none of them meeting another or, unless `cover`, any of the points;
        None for a label that found no place near its point.
    """
    taken = [] if cover else [Box(x - 3, y - 3, x + 3, y + 3) for x, y in points]
    placed: list[Box | None] = []
    for point, label in zip(points, words, strict=True):
        box = next(
            (
                box
                for box in _candidates(point, text_width(label, size), size + 2, cover)
                if frame.holds(box) and not any(box.meets(other) for other in taken)
            ),
            None,
        )
        placed.append(box)
        if box is not None:
            taken.append(box)
    return placed


def _candidates(
    point: tuple[float, float], width: float, height: float, cover: bool
) -> Iterator[Box]:
    """Boxes around a point, nearest first; the one on it where that is allowed."""
    x, y = point
    if cover:
        yield Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    for distance in _DISTANCES:
        for angle in _ANGLES:
            cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            # The edge, not the middle, stands at the distance.
            middle_x = x + cos * distance + _sign(cos) * width / 2
            middle_y = y + sin * distance + _sign(sin) * height / 2
            yield Box(
                middle_x - width / 2,
                middle_y - height / 2,
                middle_x + width / 2,
                middle_y + height / 2,
            )


def _sign(value: float) -> float:
    return 0.0 if abs(value) < 1e-9 else math.copysign(1.0, value)
