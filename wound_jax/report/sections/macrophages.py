"""Macrophage polarisation: the change of two gene scores over days, replicates and prediction."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from wound_jax.report.blocks import Block, Column, Figure, Fold, Note, Section, Table, absent
from wound_jax.report.figures.score_days import DayScore, draw_score_days
from wound_jax.report.load import Study
from wound_jax.report.markup import Html
from wound_jax.report.sections.common import variant_column
from wound_jax.report.sections.criteria import criterion_of, notes, variants_with, why_not, word
from wound_jax.report.sections.strata import natural
from wound_jax.report.svg import PREDICTED, REAL, legend

_SCORES = {"pro_inflammatory": "Pro-inflammatory score", "repair": "Repair score"}

# Score, cell type, perturbation: what one panel shows.
Key = tuple[str, str, str]
# Variant -> its rows, one a score and stratum.
Values = Mapping[str, Sequence[Mapping[str, Any]]]


def macrophages_section(study: Study) -> Section:
    """Changes of the two macrophage scores over days."""
    id, title = "macrophages", "Macrophage polarisation"
    judged = variants_with(study, "polarisation", "values")
    if not judged:
        return absent(id, title, why_not(study, "polarisation"))
    found = {variant.name: criterion_of(variant, "polarisation") for variant in judged}
    values = {name: one["values"] for name, one in found.items()}
    legends = legend(
        [
            ("replicates, with their interval", REAL, "dot"),
            ("predicted", PREDICTED, "dot"),
        ]
    )
    look = (
        "A blue dot should lie inside the orange bar of its day, on the same side of zero. The bar "
        "is where a further replicate of the same kind would lie."
    )
    if len(judged) > 1:
        look += f" Dots from left to right: {', '.join(v.name for v in judged)}."
    keys = dict.fromkeys(_key(row) for rows in values.values() for row in rows)
    blocks: list[Block] = [
        _verdicts(found),
        Figure([_panel(key, values) for key in keys], look, legends),
        *notes(judged, "polarisation"),
        Fold("All values", [_table(study, values)]),
    ]
    return Section(id, title, blocks)


def _verdicts(found: Mapping[str, Mapping[str, Any]]) -> Block:
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


def _panel(key: Key, values: Values) -> Html:
    own = {
        name: {str(row["timepoint"] or "all"): row for row in rows if _key(row) == key}
        for name, rows in values.items()
    }
    days = sorted({day for rows in own.values() for day in rows}, key=natural)
    one = next(row for rows in own.values() for row in rows.values())
    score, cell_type, perturbation = key
    subtitle = f"{perturbation}; interval from {one['interval_from']}"
    if one["n_replicates"]:
        subtitle += f", n = {one['n_replicates']} a day"
    return draw_score_days(
        f"{_SCORES.get(score, score)}, {cell_type}", subtitle, [_day(day, own) for day in days]
    )


def _day(day: str, own: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> DayScore:
    rows = {name: by_day[day] for name, by_day in own.items() if day in by_day}
    one = next(iter(rows.values()))
    predicted = [(name, row["predicted_change"]) for name, row in rows.items()]
    return DayScore(day, one["true_change"], _nan(one["low"]), _nan(one["high"]), predicted)


def _nan(value: float | None) -> float:
    return math.nan if value is None else value


def _table(study: Study, values: Values) -> Table:
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
        Column("timepoint", "day"),
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
