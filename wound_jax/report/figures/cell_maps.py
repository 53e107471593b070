"""Two views of one UMAP: what the wound does to real cells, and where the predictions fall."""

import numpy as np

from wound_jax.evaluation.mixing import CellMap
from wound_jax.report.figures.labels import Box, place_labels
from wound_jax.report.figures.raster import raster
from wound_jax.report.markup import Html
from wound_jax.report.svg import MUTED, Scale, drawing, scale, shorten, text

_SIZE, _TOP, _MARGIN = 380, 46, 12
# Middle tones that are readable on the light and on the dark page.
_COLORS = {"control": "#9a9a9a", "treated": "#dd6a1a", "predicted": "#1c86c8"}


def draw_cell_maps(cells: CellMap) -> list[Html]:
    """The two panels, on the same coordinates.

    Args:
        cells: the map.
    """
    n = {name: len(getattr(cells, name)) for name in _COLORS}
    views = (
        ("Real cells", f"{n['control']} control, {n['treated']} treated", ("control", "treated")),
        (
            "Predicted on real treated",
            f"{n['predicted']} predicted, {n['treated']} treated",
            ("treated", "predicted"),
        ),
    )
    return [_view(cells, *view) for view in views]


def _view(cells: CellMap, title: str, subtitle: str, groups: tuple[str, ...]) -> Html:
    everything = np.concatenate([cells.control, cells.treated, cells.predicted])
    x = scale(everything[:, 0], _MARGIN, _SIZE - _MARGIN)
    y = scale(everything[:, 1], _TOP + _SIZE - 2 * _MARGIN, _TOP)
    shown = np.concatenate([getattr(cells, name) for name in groups])
    colors = np.repeat([_COLORS[n] for n in groups], [len(getattr(cells, n)) for n in groups])
    box = (_MARGIN, _TOP, _SIZE - 2 * _MARGIN, _SIZE - 2 * _MARGIN)
    return drawing(
        _SIZE,
        _TOP + _SIZE - _MARGIN,
        f"UMAP: {title}, {subtitle}",
        text(_MARGIN, 19, title, bold=True, size=12),
        text(_MARGIN, 34, subtitle, fill=MUTED),
        raster(_pixels(shown, x, y), colors, box, radius=1.8, opacity=0.65),
        *_type_names(getattr(cells, groups[0]), getattr(cells, f"{groups[0]}_type"), x, y, box),
    )


def _type_names(
    points: np.ndarray, labels: np.ndarray, x: Scale, y: Scale, box: tuple[float, ...]
) -> list[Html]:
    """Each cell type's name at the median of its cells."""
    types = [str(name) for name in dict.fromkeys(labels)]
    medians = [np.median(points[labels == name], axis=0) for name in types]
    places = [(float(a), float(b)) for a, b in _pixels(np.array(medians), x, y)]
    frame = Box(box[0], box[1], box[0] + box[2], box[1] + box[3])
    words = [shorten(name, 16) for name in types]
    boxes = place_labels(places, words, frame, size=11.5, cover=True)
    return [
        text(box.left + 1, box.bottom - 3, word, size=11.5, bold=True, halo=True)
        for box, word in zip(boxes, words, strict=True)
        if box is not None
    ]


def _pixels(points: np.ndarray, x: Scale, y: Scale) -> np.ndarray:
    return np.stack([[x(v) for v in points[:, 0]], [y(v) for v in points[:, 1]]], axis=1)
