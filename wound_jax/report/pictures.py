"""Pictures of a run as PNG files beside its numbers, drawn by the same code as the page's."""

from pathlib import Path

from wound_jax.report.figures.curves import Bundle, draw_curves, read_curve, series_legend
from wound_jax.report.figures.drawing import write_png
from wound_jax.report.figures.points import draw_cell_maps, map_legend
from wound_jax.report.figures.rows import type_legend
from wound_jax.report.load import RunResult
from wound_jax.report.sections.cells import MAPS_LOOK
from wound_jax.report.sections.strata import TYPES_LOOK, methods_of, type_panels

_LOSSES = {"train/loss": "training loss", "val/loss": "validation loss"}


def write_pictures(run: RunResult, folder: Path) -> None:
    """Writes `loss_curves.png`, `strata.png` and `umap.png`.

    Args:
        run: the evaluated run; what it lacks is not drawn.
        folder: where to.
    """
    curves = {name: read_curve(run.records, key) for key, name in _LOSSES.items()}
    if any(curves.values()):
        bundles = [Bundle(name, [curve] if curve else []) for name, curve in curves.items()]
        look = (
            "The validation loss should fall with the training loss and level off; where it rises "
            "while the training loss still falls, the model memorises."
        )
        panel = draw_curves(bundles, "Loss")
        legend = [item for item in series_legend(list(curves)) if curves[item.words]]
        write_png(folder / "loss_curves.png", [panel], legend, look)
    legend = type_legend(methods_of([run]))
    write_png(folder / "strata.png", type_panels([run]), legend, TYPES_LOOK)
    if run.cell_map is not None:
        write_png(folder / "umap.png", draw_cell_maps(run.cell_map), map_legend(), MAPS_LOOK)
