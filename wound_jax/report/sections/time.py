"""A day left out of training: is it predicted better than by interpolation."""

from collections.abc import Sequence

from wound_jax.report.blocks import Block, Column, Section, Table, absent
from wound_jax.report.load import Study, Variant
from wound_jax.report.sections.common import variant_column
from wound_jax.report.sections.criteria import criterion_of, notes, variants_with, why_not, word


def time_section(study: Study) -> Section:
    """Errors against the interpolation, and steps against permuted days."""
    id, title = "time", "A day left out"
    judged = variants_with(study, "temporal", "strata")
    if not judged:
        return absent(id, title, why_not(study, "temporal"))
    blocks: list[Block] = [_verdict_table(study, judged), _strata_table(study, judged)]
    return Section(id, title, [*blocks, *notes(judged, "temporal")])


def _strata_table(study: Study, variants: Sequence[Variant]) -> Table:
    """One line a group of cells of the day."""
    rows = [
        {**row, "variant": variant.name}
        for variant in variants
        for row in criterion_of(variant, "temporal")["strata"]
    ]
    columns = [
        Column("cell_type", "cell type"),
        Column("timepoint", "day left out"),
        variant_column(study),
        Column("error", "error of the model", "number", "mean squared error of the mean cell", 4),
        Column("interpolation_error", "error of interpolation", "number", "between the days", 4),
        Column(
            "interpolated_change_error",
            "error of the interpolated change",
            "number",
            "on the day's own controls; not judged",
            4,
        ),
    ]
    return Table(
        "time_strata", "The model's error should be the smallest of its row.", columns, rows
    )


def _verdict_table(study: Study, variants: Sequence[Variant]) -> Table:
    columns = [
        variant_column(study),
        Column("verdict", "verdict"),
        Column("error", "error of the model", "number", None, 4),
        Column("interpolation_error", "error of interpolation", "number", None, 4),
        Column("error_gain", "gain", "interval", "interpolation minus model", 4),
        Column("step_correlation", "step correlation", "number", "of true and predicted steps"),
        Column("step_null_mean", "days permuted", "number", "the same with days permuted"),
        Column("step_p_value", "p", "number"),
        Column("n_steps", "steps", "number"),
    ]
    rows = []
    for variant in variants:
        found = criterion_of(variant, "temporal")
        rows.append({**found, "variant": variant.name, "verdict": word(found)})
    look = (
        "The gain should be above zero with its whole interval, and the step correlation well "
        "above that of permuted days; a constant prediction is smooth and yet knows no day."
    )
    return Table("time", look, columns, rows)
