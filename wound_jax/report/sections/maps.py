"""UMAPs of real and predicted cells, with the numbers that the eye cannot give."""

from wound_jax.report.blocks import Block, Column, Figure, Fold, Note, Section, Table, absent
from wound_jax.report.figures.cell_maps import draw_cell_maps
from wound_jax.report.glossary import metric_name
from wound_jax.report.load import Study, Variant
from wound_jax.report.scores import best_variant
from wound_jax.report.sections.common import variant_column
from wound_jax.report.svg import CONTROL, PREDICTED, REAL, legend

_NUMBERS = ("knn_mixing", "classifier_auc", "silhouette")
_LOOK = (
    "Predicted cells (blue) should lie among the real treated cells (orange) of their type and be "
    "spread as widely. The map was fitted on real cells only; distances on it are not to scale, so "
    "trust the numbers below it."
)


def maps_section(study: Study) -> Section:
    """The maps of each variant, and the mixing numbers."""
    id, title = "maps", "Maps of the cells"
    shown = [variant for variant in study.variants if variant.shown.cell_map is not None]
    numbers = _numbers(study)
    if not shown and numbers is None:
        return absent(id, title, "no run has eval/umap.npz (evaluation.plots was off).")
    blocks: list[Block] = []
    best = best_variant(study)
    for variant in shown:
        figure = _figure(variant)
        blocks.append(figure if len(shown) == 1 else Fold(variant.name, [figure], variant is best))
    if not shown:
        blocks.append(Note("No run has eval/umap.npz (evaluation.plots was off).", "absent"))
    return Section(id, title, [*blocks, numbers or Note(_why_no_numbers(study), "absent")])


def _figure(variant: Variant) -> Figure:
    cells = variant.shown.cell_map
    assert cells is not None
    items = [
        ("real control", CONTROL, "dot"),
        ("real treated", REAL, "dot"),
        ("predicted", PREDICTED, "dot"),
    ]
    return Figure(draw_cell_maps(cells), _LOOK, legend(items))


def _numbers(study: Study) -> Table | None:
    """The mixing numbers, the model's beside those of no change and of real cells."""
    rows = [
        {
            "figure": metric_name(name),
            "variant": variant.name,
            "model": mixing.get(name),
            "identity": mixing.get(f"{name}_identity"),
            "real": mixing.get(f"{name}_real"),
            "n_strata": mixing.get("n_strata"),
        }
        for name in _NUMBERS
        for variant in study.variants
        if (mixing := variant.shown.part("mixing")).get(name) is not None
    ]
    if not rows:
        return None
    columns = [
        Column("figure", "figure", place="once"),
        variant_column(study),
        Column("model", "predicted and treated", "number"),
        Column("identity", "control and treated", "number", "what predicting no change gives"),
        Column("real", "two halves of treated", "number", "what a perfect prediction gives"),
        Column("n_strata", "groups", "number"),
    ]
    look = (
        "The first number should be near the third, as good as it gets, and far from the second, "
        "that of no change."
    )
    return Table("mixing", look, columns, rows)


def _why_no_numbers(study: Study) -> str:
    reasons = {run.part("mixing").get("reason") for run in study.runs} - {None}
    return f"No mixing numbers: {'; '.join(sorted(reasons)) or 'missing from the evaluations'}."
