"""Biology: macrophage scores over timepoints, registered wound markers, a timepoint left out.

Each criterion of an evaluation is a mapping with "applicable", "reason" where it is not,
"accepted", "notes", and its numbers.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from wound_jax.evaluation.biology.gene_sets import families_of, find_genes, signs_in
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
from wound_jax.report.figures.curves import TimepointScore, draw_scores
from wound_jax.report.figures.drawing import PREDICTED, REAL, Panel, disc
from wound_jax.report.figures.rows import Marker, draw_markers
from wound_jax.report.load import Study, Variant
from wound_jax.report.scores import best_variant
from wound_jax.report.sections.strata import natural
from wound_jax.report.words import number

_SCORES = {"pro_inflammatory": "Pro-inflammatory score", "repair": "Repair score"}

# Score, cell type, perturbation: what one panel shows.
Key = tuple[str, str, str]
# Variant -> its rows, one a score and stratum.
Values = Mapping[str, Sequence[Mapping[str, Any]]]
# Genes of one panel, the strongest true deltas first.
_SHOWN = 24

# Cell type -> its markers, the strongest first.
ByType = Mapping[str, Sequence[Marker]]


def macrophages_section(study: Study) -> Section:
    """Deltas of the two macrophage scores over timepoints."""
    id, title = "macrophages", "Macrophage polarisation"
    judged = variants_with(study, "polarisation", "values")
    if not judged:
        return absent(id, title, why_not(study, "polarisation"))
    found = {variant.name: criterion_of(variant, "polarisation") for variant in judged}
    values = {name: one["values"] for name, one in found.items()}
    legend = [disc("replicates, with their interval", REAL), disc("predicted", PREDICTED)]
    look = (
        "A blue dot should lie inside the orange bar of its timepoint, on the same side of zero. "
        "The bar is where a further replicate of the same kind would lie."
    )
    if len(judged) > 1:
        look += f" Dots from left to right: {', '.join(v.name for v in judged)}."
    keys = dict.fromkeys(_key(row) for rows in values.values() for row in rows)
    blocks: list[Block] = [
        _score_verdicts(found),
        Figure([_score_panel(key, values) for key in keys], look, legend),
        *notes(judged, "polarisation"),
        Fold("All values", [_score_table(study, values)]),
    ]
    return Section(id, title, blocks)


def _score_verdicts(found: Mapping[str, Mapping[str, Any]]) -> Block:
    """A sentence for one variant, a table for several."""
    if len(found) == 1:
        (one,) = found.values()
        return Note(
            f"{word(one).capitalize()}. {one.get('signs_right')} of {one.get('signs_judged')} "
            f"signs are right, {one.get('inside')} of {one.get('n_values')} values lie inside."
        )
    columns = [
        Column("variant", "variant"),
        Column("verdict", "verdict"),
        Column("signs_right", "signs right", "number"),
        Column("signs_judged", "signs judged", "number"),
        Column("inside", "values inside", "number"),
        Column("n_values", "values", "number"),
    ]
    rows = [{**one, "variant": name, "verdict": word(one)} for name, one in found.items()]
    look = "Accepted are variants whose signs are all right and whose values all lie inside."
    return Table("macrophage_verdicts", look, columns, rows)


def _key(row: Mapping[str, Any]) -> Key:
    return row["score"], row["cell_type"], row["perturbation"]


def _score_panel(key: Key, values: Values) -> Panel:
    own = {
        name: {str(row["timepoint"] or "all"): row for row in rows if _key(row) == key}
        for name, rows in values.items()
    }
    timepoints = sorted({name for rows in own.values() for name in rows}, key=natural)
    one = next(row for rows in own.values() for row in rows.values())
    score, cell_type, perturbation = key
    subtitle = f"{perturbation}; interval from {one['interval_from']}"
    if one["n_replicates"]:
        subtitle += f", n = {one['n_replicates']} each"
    scores = [_timepoint_score(timepoint, own) for timepoint in timepoints]
    return draw_scores(f"{_SCORES.get(score, score)}, {cell_type}", subtitle, scores)


def _timepoint_score(
    timepoint: str, own: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> TimepointScore:
    rows = {name: found[timepoint] for name, found in own.items() if timepoint in found}
    one = next(iter(rows.values()))
    predicted = [(name, row["predicted_change"]) for name, row in rows.items()]
    low, high = _nan(one["low"]), _nan(one["high"])
    return TimepointScore(timepoint, one["true_change"], low, high, predicted)


def _nan(value: float | None) -> float:
    return math.nan if value is None else value


def _score_table(study: Study, values: Values) -> Table:
    rows = [
        {
            **row,
            "variant": name,
            "true_change_low": row["low"],
            "true_change_high": row["high"],
            "score": _SCORES.get(row["score"], row["score"]),
            "sign": {True: "right", False: "wrong"}.get(row["sign_right"], "open"),
            "inside": "inside" if row["inside"] else "outside",
        }
        for name, found in values.items()
        for row in found
    ]
    columns = [
        Column("score", "score"),
        Column("cell_type", "cell type"),
        Column("timepoint", "timepoint"),
        variant_column(study),
        Column("true_change", "replicates", "interval"),
        Column("predicted_change", "predicted", "signed"),
        Column("sign", "sign"),
        Column("inside", "interval"),
        Column("interval_from", "interval from"),
        Column("n_replicates", "replicates", "number"),
    ]
    look = "A sign is open where the replicates do not decide it."
    return Table("macrophages", look, columns, rows)


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
        _marker_verdicts(study, judged),
    ]
    for name, by_type in markers.items():
        figure = _marker_figure(name, by_type)
        blocks.append(figure if len(markers) == 1 else Fold(name, [figure], name == best))
    blocks += notes(judged, "wound_markers")
    return Section(id, title, [*blocks, Fold("All marker genes", [_gene_table(study, markers)])])


def _marker_figure(name: str, by_type: ByType) -> Block:
    if not by_type:
        return Note(f"{name}: no gene figures (eval/deltas.npz is missing).", "absent")
    look = (
        "Each gene was registered to rise (▲) or fall (▼) in a wound before any model was scored, "
        "and does so in the cells of this type. The blue dot should lie on the same side of zero "
        "as the orange one; a dashed line marks genes predicted the wrong way."
    )
    panels = [_marker_panel(cell_type, found) for cell_type, found in by_type.items()]
    return Figure(panels, look, [disc("in the replicates", REAL), disc("predicted", PREDICTED)])


def _sentence(variant: Variant) -> str:
    found = criterion_of(variant, "wound_markers")
    text = f"{word(found).capitalize()}."
    if found.get("accuracy") is None:
        return text
    return (
        f"{text} {number(100 * found['accuracy'], 0)} % of {found.get('n_qualifying')} deltas go "
        f"the registered way, against {_percent(found.get('null_mean'))} of random genes of like "
        "expression."
    )


def _percent(share: float | None) -> str:
    return "an unknown share" if share is None else f"{number(100 * share, 0)} %"


def _markers(variant: Variant) -> dict[str, list[Marker]]:
    """The qualifying genes that move the registered way in a cell type, means over timepoints."""
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


def _marker_panel(cell_type: str, markers: Sequence[Marker]) -> Panel:
    shown = markers[:_SHOWN]
    right = sum(marker.right for marker in markers)
    subtitle = f"{right} of n = {len(markers)} predicted the right way"
    if len(markers) > len(shown):
        subtitle = f"{right} of n = {len(markers)} right; the {len(shown)} strongest"
    return draw_markers(cell_type, subtitle, shown)


def _marker_verdicts(study: Study, variants: Sequence[Variant]) -> Table:
    columns = [
        variant_column(study),
        Column("verdict", "verdict"),
        Column("accuracy", "share right", "number", "deltas that go the registered way"),
        Column(
            "null_mean", "random genes", "number", "the same for random genes of like expression"
        ),
        Column("p_value", "p", "number", "random sets at least as good"),
        Column(
            "n_qualifying", "deltas", "number", "of a gene in a group, confirmed by the replicates"
        ),
        Column("n_genes", "genes", "number"),
        Column("n_tested", "tested", "number", "deltas of registered genes"),
        Column(
            "n_contradicting", "contradicting", "number", "deltas the other way in the replicates"
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
        Column("true", "true delta", "signed"),
        Column("predicted", "predicted delta", "signed"),
    ]
    return Table("marker_genes", "Means over the timepoints of a cell type.", columns, rows)


def timepoint_section(study: Study) -> Section:
    """Errors against the interpolation, and steps against permuted timepoints."""
    id, title = "time", "A timepoint left out"
    judged = variants_with(study, "temporal", "strata")
    if not judged:
        return absent(id, title, why_not(study, "temporal"))
    blocks: list[Block] = [_timepoint_verdicts(study, judged), _timepoint_table(study, judged)]
    return Section(id, title, [*blocks, *notes(judged, "temporal")])


def _timepoint_table(study: Study, variants: Sequence[Variant]) -> Table:
    """One line a group of cells of the timepoint."""
    rows = [
        {**row, "variant": variant.name}
        for variant in variants
        for row in criterion_of(variant, "temporal")["strata"]
    ]
    columns = [
        Column("cell_type", "cell type"),
        Column("timepoint", "timepoint left out"),
        variant_column(study),
        Column("error", "error of the model", "number", "mean squared error of the mean cell", 4),
        Column(
            "interpolation_error", "error of interpolation", "number", "between its neighbours", 4
        ),
        Column(
            "interpolated_change_error",
            "error of the interpolated delta",
            "number",
            "on its own controls; not judged",
            4,
        ),
    ]
    return Table(
        "time_strata", "The model's error should be the smallest of its row.", columns, rows
    )


def _timepoint_verdicts(study: Study, variants: Sequence[Variant]) -> Table:
    columns = [
        variant_column(study),
        Column("verdict", "verdict"),
        Column("error", "error of the model", "number", None, 4),
        Column("interpolation_error", "error of interpolation", "number", None, 4),
        Column("error_gain", "gain", "interval", "interpolation minus model", 4),
        Column("step_correlation", "step correlation", "number", "of true and predicted steps"),
        Column("step_null_mean", "timepoints permuted", "number", "the same, permuted"),
        Column("step_p_value", "p", "number"),
        Column("n_steps", "steps", "number"),
    ]
    rows = []
    for variant in variants:
        found = criterion_of(variant, "temporal")
        rows.append({**found, "variant": variant.name, "verdict": word(found)})
    look = (
        "The gain should be above zero with its whole interval, and the step correlation well "
        "above that of permuted timepoints; a constant prediction is smooth and knows no "
        "timepoint."
    )
    return Table("time", look, columns, rows)


def criterion_of(variant: Variant, criterion: str) -> Mapping[str, Any]:
    """The result of a criterion in a variant's shown run; empty where it has none."""
    return variant.shown.part("biology").get(criterion) or {}


def variants_with(study: Study, criterion: str, rows: str) -> list[Variant]:
    """The variants whose result of a criterion has something to show, judged or not."""
    return [variant for variant in study.variants if criterion_of(variant, criterion).get(rows)]


def why_not(study: Study, criterion: str) -> str:
    """Why no variant has a criterion, as the evaluations said."""
    found = (run.part("biology").get(criterion) or {} for run in study.runs)
    reasons = sorted({str(one["reason"]) for one in found if one.get("reason")})
    return f"{'; '.join(reasons) or 'these evaluations have no such figures'}."


def word(found: Mapping[str, Any]) -> str:
    """The verdict."""
    if not found.get("applicable"):
        return f"no verdict, {found.get('reason', 'no reason given')}"
    return "accepted" if found.get("accepted") else "not accepted"


def notes(variants: Sequence[Variant], criterion: str) -> list[Block]:
    """What a reader must know to weigh the figures, each once."""
    texts = dict.fromkeys(
        str(note) for v in variants for note in criterion_of(v, criterion).get("notes") or ()
    )
    return [Note(f"Note: {text}.") for text in texts]
