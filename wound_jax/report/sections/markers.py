"""Registered wound markers: the verdict, and the change of each gene."""

from collections.abc import Mapping, Sequence

from wound_jax.evaluation.biology.gene_sets import families_of, find_genes, signs_in
from wound_jax.report.blocks import Block, Column, Figure, Fold, Note, Section, Table, absent
from wound_jax.report.figures.marker_panel import Marker, draw_marker_panel
from wound_jax.report.load import Study, Variant
from wound_jax.report.markup import Html, number
from wound_jax.report.scores import best_variant
from wound_jax.report.sections.common import variant_column
from wound_jax.report.sections.criteria import criterion_of, notes, variants_with, why_not, word
from wound_jax.report.svg import PREDICTED, REAL, legend

# Genes of one panel, the strongest true changes first.
_SHOWN = 24

# Cell type -> its markers, the strongest first.
ByType = Mapping[str, Sequence[Marker]]


def markers_section(study: Study) -> Section:
    """Registered wound markers of all variants."""
    id, title = "markers", "Wound markers"
    judged = variants_with(study, "wound_markers", "markers")
    if not judged:
        return absent(id, title, why_not(study, "wound_markers"))
    markers = {variant.name: _markers(variant) for variant in judged}
    best = best_variant(study).name
    blocks: list[Block] = [
        *(Note(_sentence(v)) for v in judged if len(judged) == 1),
        _verdict_table(study, judged),
    ]
    for name, by_type in markers.items():
        figure = _figure(name, by_type)
        blocks.append(figure if len(markers) == 1 else Fold(name, [figure], name == best))
    blocks += notes(judged, "wound_markers")
    return Section(id, title, [*blocks, Fold("All marker genes", [_gene_table(study, markers)])])


def _figure(name: str, by_type: ByType) -> Block:
    if not by_type:
        return Note(f"{name}: no gene figures (eval/deltas.npz is missing).", "absent")
    look = (
        "Each gene was registered to rise (▲) or fall (▼) in a wound before any model was scored, "
        "and does so in the cells of this type. The blue dot should lie on the same side of zero "
        "as the orange one; a dashed line marks genes predicted the wrong way."
    )
    legends = legend([("in the replicates", REAL, "dot"), ("predicted", PREDICTED, "dot")])
    return Figure([_panel(cell_type, found) for cell_type, found in by_type.items()], look, legends)


def _sentence(variant: Variant) -> str:
    found = criterion_of(variant, "wound_markers")
    text = f"{word(found).capitalize()}."
    if found.get("accuracy") is None:
        return text
    return (
        f"{text} {number(100 * found['accuracy'], 0)} % of {found.get('n_qualifying')} changes go "
        f"the registered way, against {_percent(found.get('null_mean'))} of random genes of like "
        "expression."
    )


def _percent(share: float | None) -> str:
    return "an unknown share" if share is None else f"{number(100 * share, 0)} %"


def _markers(variant: Variant) -> dict[str, list[Marker]]:
    """The qualifying genes that move the registered way in a cell type, means over its days."""
    deltas = variant.shown.deltas
    if deltas is None:
        return {}
    qualifying = criterion_of(variant, "wound_markers")["markers"]
    found: dict[str, list[Marker]] = {}
    for cell_type in dict.fromkeys(deltas.cell_type.tolist()):
        rows = deltas.cell_type == cell_type
        signs = signs_in(families_of(cell_type))
        markers = [
            Marker(
                gene=str(deltas.genes[place]),
                sign=signs[symbol],
                true=float(deltas.true_delta[rows, place].mean()),
                predicted=float(deltas.predicted_delta[rows, place].mean()),
            )
            for symbol, place in find_genes(signs, deltas.genes.tolist()).items()
            if str(deltas.genes[place]) in qualifying
        ]
        confirmed = [marker for marker in markers if marker.true * marker.sign > 0]
        if confirmed:
            found[cell_type] = sorted(confirmed, key=lambda marker: -abs(marker.true))
    return found


def _panel(cell_type: str, markers: Sequence[Marker]) -> Html:
    shown = markers[:_SHOWN]
    right = sum(marker.right for marker in markers)
    subtitle = f"{right} of n = {len(markers)} predicted the right way"
    if len(markers) > len(shown):
        subtitle = f"{right} of n = {len(markers)} right; the {len(shown)} strongest"
    return draw_marker_panel(cell_type, subtitle, shown)


def _verdict_table(study: Study, variants: Sequence[Variant]) -> Table:
    columns = [
        variant_column(study),
        Column("verdict", "verdict"),
        Column("accuracy", "share right", "number", "changes that go the registered way"),
        Column(
            "null_mean", "random genes", "number", "the same for random genes of like expression"
        ),
        Column("p_value", "p", "number", "random sets at least as good"),
        Column(
            "n_qualifying", "changes", "number", "of a gene in a group, confirmed by the replicates"
        ),
        Column("n_genes", "genes", "number"),
        Column("n_tested", "tested", "number", "changes of registered genes"),
        Column(
            "n_contradicting", "contradicting", "number", "changes the other way in the replicates"
        ),
    ]
    found = {variant.name: criterion_of(variant, "wound_markers") for variant in variants}
    rows = [{**one, "variant": name, "verdict": word(one)} for name, one in found.items()]
    look = "The share of right directions should be well above that of random genes."
    return Table("wound_markers", look, columns, rows)


def _gene_table(study: Study, markers: Mapping[str, ByType]) -> Table:
    rows = [
        {
            "gene": marker.gene,
            "cell_type": cell_type,
            "variant": name,
            "registered": "up" if marker.sign > 0 else "down",
            "true": marker.true,
            "predicted": marker.predicted,
        }
        for name, by_type in markers.items()
        for cell_type, found in by_type.items()
        for marker in found
    ]
    columns = [
        Column("gene", "gene"),
        Column("cell_type", "cell type"),
        variant_column(study),
        Column("registered", "registered"),
        Column("true", "true change", "signed"),
        Column("predicted", "predicted change", "signed"),
    ]
    return Table("marker_genes", "Means over the days of a cell type.", columns, rows)
