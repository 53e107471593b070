"""Single genes: the true against the predicted change of every gene in every group of cells."""

import numpy as np

from wound_jax.evaluation.files import Deltas
from wound_jax.report.blocks import Block, Column, Figure, Fold, Note, Section, Table, absent
from wound_jax.report.figures.scatter import GeneChange, draw_scatter, named_genes
from wound_jax.report.glossary import method_name
from wound_jax.report.load import Study, Variant
from wound_jax.report.markup import number
from wound_jax.report.scores import best_variant
from wound_jax.report.sections.common import variant_column
from wound_jax.report.svg import PREDICTED, REAL, legend

# Panels of one variant; all strata are in deltas.npz.
_PANELS = 12


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
            "change in the replicates and not in the prediction. Hover over a coloured dot for its "
            "figures."
        )
    ]
    best = best_variant(study)
    for variant in shown:
        figure = _figure(variant)
        blocks.append(figure if len(shown) == 1 else Fold(variant.name, [figure], variant is best))
    blocks.append(Fold("Named genes of all groups", [_table(study, shown)]))
    missing = [v.name for v in study.variants if v.shown.deltas is None]
    if missing:
        blocks.append(Note(f"Without gene figures: {', '.join(missing)}.", "absent"))
    return Section(id, title, blocks)


def _figure(variant: Variant) -> Figure:
    deltas = variant.shown.deltas
    assert deltas is not None
    # The largest true changes say most; ties keep the order of the file.
    size = np.linalg.norm(deltas.true_delta, axis=1)
    chosen = np.sort(np.argsort(-size, kind="stable")[:_PANELS])
    left_out = len(deltas.strata) - len(chosen)
    look = "Named are the worst misses and the strongest true changes."
    if len(variant.runs) > 1:
        look += f" Shown is seed {variant.shown.seed}, the middle one by correlation of change."
    if left_out > 0:
        look += f" The {len(chosen)} groups that change most are drawn, {left_out} are not."
    items = [
        ("worst misses", REAL, "dot"),
        ("strongest true changes", PREDICTED, "dot"),
        ("all other genes", "#7d858d", "dot"),
        ("perfect prediction", "var(--muted)", "4 3"),
    ]
    return Figure([draw_scatter(_change(deltas, i)) for i in chosen], look, legend(items))


def _change(deltas: Deltas, i: int) -> GeneChange:
    true, predicted = deltas.true_delta[i], deltas.predicted_delta[i]
    flat = true.std() == 0 or predicted.std() == 0
    r = float("nan") if flat else float(np.corrcoef(true, predicted)[0, 1])
    return GeneChange(
        title=_name(deltas, i),
        subtitle=f"correlation {number(r, 2)}, n = {len(true):,} genes",
        genes=[str(gene) for gene in deltas.genes],
        true=true.astype(float),
        predicted=predicted.astype(float),
    )


def _name(deltas: Deltas, i: int) -> str:
    return str(deltas.strata[i]).replace(" | ", ", ")


def _table(study: Study, variants: list[Variant]) -> Table:
    rows = [
        row
        for variant in variants
        if (deltas := variant.shown.deltas) is not None
        for i in range(len(deltas.strata))
        for row in _named(deltas, i, variant.name)
    ]
    rival = "best baseline's change"
    columns = [
        Column("gene", "gene"),
        Column("stratum", "group"),
        variant_column(study),
        Column("named_for", "named for"),
        Column("control", "mean of controls", "number"),
        Column("true", "true change", "signed"),
        Column("predicted", "predicted change", "signed"),
        Column("baseline", rival, "signed"),
        Column("baseline_name", "that baseline"),
    ]
    look = "A gene that is missed in many groups points to something the model cannot see."
    return Table("genes", look, columns, rows)


def _named(deltas: Deltas, i: int, variant: str) -> list[dict]:
    worst, strongest = named_genes(deltas.true_delta[i], deltas.predicted_delta[i])
    reasons = [("miss", gene) for gene in worst] + [("strong change", gene) for gene in strongest]
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
