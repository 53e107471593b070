"""Cells: single genes by their deltas, and maps of real and predicted cells."""

import numpy as np

from wound_jax.evaluation.files import Deltas
from wound_jax.report.blocks import (
    Block,
    Column,
    Figure,
    Fold,
    Note,
    Section,
    Table,
    absent,
    variant_column,
)
from wound_jax.report.figures.drawing import MUTED, PREDICTED, REAL, disc, stroke
from wound_jax.report.figures.points import (
    GENE_COLOR,
    GeneDeltas,
    draw_cell_maps,
    draw_scatter,
    map_legend,
    named_genes,
)
from wound_jax.report.load import Study, Variant
from wound_jax.report.scores import best_variant
from wound_jax.report.words import method_name, metric_name, number

# Panels of one variant; all strata are in deltas.npz.
_PANELS = 12
_NUMBERS = ("knn_mixing", "classifier_auc", "silhouette")
MAPS_LOOK = (
    "Predicted cells (blue) should lie among the real treated cells (orange) of their type and be "
    "spread as widely. The map was fitted on real cells only; distances on it are not to scale, so "
    "trust the numbers below it."
)


def genes_section(study: Study) -> Section:
    """Scatter plots of the strongest groups, and the named genes as a table."""
    id, title = "genes", "Single genes"
    shown = [variant for variant in study.variants if variant.shown.deltas is not None]
    if not shown:
        return absent(
            id,
            title,
            "no run has eval/deltas.npz (embeddings have no genes; older evaluations "
            "did not write it).",
        )
    blocks: list[Block] = [
        Note(
            "Genes on the dashed diagonal are predicted exactly; genes along the horizontal axis "
            "move in the replicates and not in the prediction. Hover over a coloured dot for its "
            "figures."
        )
    ]
    best = best_variant(study)
    for variant in shown:
        figure = _genes_figure(variant)
        blocks.append(figure if len(shown) == 1 else Fold(variant.name, [figure], variant is best))
    blocks.append(Fold("Named genes of all groups", [_genes_table(study, shown)]))
    missing = [v.name for v in study.variants if v.shown.deltas is None]
    if missing:
        blocks.append(Note(f"Without gene figures: {', '.join(missing)}.", "absent"))
    return Section(id, title, blocks)


def _genes_figure(variant: Variant) -> Figure:
    deltas = variant.shown.deltas
    assert deltas is not None
    # The largest true deltas say most; ties keep the order of the file.
    size = np.linalg.norm(deltas.true_delta, axis=1)
    chosen = np.sort(np.argsort(-size, kind="stable")[:_PANELS])
    left_out = len(deltas.strata) - len(chosen)
    look = "Named are the worst misses and the strongest true deltas."
    if len(variant.runs) > 1:
        look += f" Shown is seed {variant.shown.seed}, the middle one by correlation of deltas."
    if left_out > 0:
        look += f" The {len(chosen)} groups of the largest deltas are drawn, {left_out} are not."
    legend = [
        disc("worst misses", REAL),
        disc("strongest true deltas", PREDICTED),
        disc("all other genes", GENE_COLOR),
        stroke("perfect prediction", MUTED, (0, (2, 1.5)), 2),
    ]
    return Figure([draw_scatter(_gene_deltas(deltas, i)) for i in chosen], look, legend)


def _gene_deltas(deltas: Deltas, i: int) -> GeneDeltas:
    true, predicted = deltas.true_delta[i], deltas.predicted_delta[i]
    flat = true.std() == 0 or predicted.std() == 0
    r = float("nan") if flat else float(np.corrcoef(true, predicted)[0, 1])
    return GeneDeltas(
        title=_name(deltas, i),
        subtitle=f"correlation {number(r, 2)}, n = {len(true):,} genes",
        genes=[str(gene) for gene in deltas.genes],
        true=true.astype(float),
        predicted=predicted.astype(float),
    )


def _name(deltas: Deltas, i: int) -> str:
    return str(deltas.strata[i]).replace(" | ", ", ")


def _genes_table(study: Study, variants: list[Variant]) -> Table:
    rows = [
        row
        for variant in variants
        if (deltas := variant.shown.deltas) is not None
        for i in range(len(deltas.strata))
        for row in _named(deltas, i, variant.name)
    ]
    rival = "best baseline's delta"
    columns = [
        Column("gene", "gene"),
        Column("stratum", "group"),
        variant_column(study),
        Column("named_for", "named for"),
        Column("control", "mean of controls", "number"),
        Column("true", "true delta", "signed"),
        Column("predicted", "predicted delta", "signed"),
        Column("baseline", rival, "signed"),
        Column("baseline_name", "that baseline"),
    ]
    look = "A gene that is missed in many groups points to something the model cannot see."
    return Table("genes", look, columns, rows)


def _named(deltas: Deltas, i: int, variant: str) -> list[dict]:
    worst, strongest = named_genes(deltas.true_delta[i], deltas.predicted_delta[i])
    reasons = [("miss", gene) for gene in worst] + [("strong delta", gene) for gene in strongest]
    return [
        {
            "gene": str(deltas.genes[gene]),
            "stratum": _name(deltas, i),
            "variant": variant,
            "named_for": reason,
            "control": float(deltas.control_mean[i, gene]),
            "true": float(deltas.true_delta[i, gene]),
            "predicted": float(deltas.predicted_delta[i, gene]),
            "baseline": float(deltas.baseline_delta[i, gene]),
            "baseline_name": method_name(deltas.baseline_name),
        }
        for reason, gene in reasons
    ]


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
        figure = _maps_figure(variant)
        blocks.append(figure if len(shown) == 1 else Fold(variant.name, [figure], variant is best))
    if not shown:
        blocks.append(Note("No run has eval/umap.npz (evaluation.plots was off).", "absent"))
    return Section(id, title, [*blocks, numbers or Note(_why_no_numbers(study), "absent")])


def _maps_figure(variant: Variant) -> Figure:
    cells = variant.shown.cell_map
    assert cells is not None
    return Figure(draw_cell_maps(cells), MAPS_LOOK, map_legend())


def _numbers(study: Study) -> Table | None:
    """The mixing numbers, the model's beside those of the identity and of real cells."""
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
        Column("identity", "control and treated", "number", "what the identity scores"),
        Column("real", "two halves of treated", "number", "what a perfect prediction gives"),
        Column("n_strata", "groups", "number"),
    ]
    look = (
        "The first number should be near the third, as good as it gets, and far from the second, "
        "that of the identity."
    )
    return Table("mixing", look, columns, rows)


def _why_no_numbers(study: Study) -> str:
    reasons = {run.part("mixing").get("reason") for run in study.runs} - {None}
    return f"No mixing numbers: {'; '.join(sorted(reasons)) or 'missing from the evaluations'}."
