"""The plan's criteria with their verdicts: one line a criterion, one column a variant."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from wound_jax.report.blocks import Block, Column, Fold, Note, Section, Table, absent
from wound_jax.report.load import Study, Variant

_LOOK = (
    "Each line is one criterion of the plan. A correlation passes only if the model also beats the "
    "best baseline; what the data at hand cannot decide says so and does not pass."
)


def scorecard_section(study: Study) -> Section:
    """Verdicts of every variant, with figure, threshold, baseline and reason."""
    id, title = "scorecard", "Scorecard"
    judged = [variant for variant in study.variants if variant.shown.result.get("scorecard")]
    if not judged:
        return absent(id, title, "these evaluations have no scorecard.")
    if len(judged) == 1:
        return Section(id, title, [_lines(judged[0], "scorecard", _LOOK + _seed(judged[0]))])
    blocks: list[Block] = [_overview(judged)]
    blocks += [
        Fold(variant.name, [_lines(variant, f"scorecard_{place}", "Why, criterion by criterion.")])
        for place, variant in enumerate(judged, 1)
    ]
    missing = [v.name for v in study.variants if v not in judged]
    if missing:
        blocks.append(Note(f"Without scorecard: {', '.join(missing)}.", "absent"))
    return Section(id, title, blocks)


def passed(variant: Variant) -> tuple[int, int, int]:
    """Criteria that the shown run passes, fails, and that could not be computed."""
    verdicts = [line["verdict"] for line in variant.shown.result.get("scorecard") or ()]
    undecided = verdicts.count("cannot be computed")
    failed = verdicts.count("fail")
    return len(verdicts) - undecided - failed, failed, undecided


def _lines(variant: Variant, name: str, look: str) -> Table:
    """The whole scorecard of a variant's shown run."""
    columns = [
        Column("criterion", "criterion"),
        Column("verdict", "verdict", "verdict"),
        Column("figure", "figure", "number"),
        Column("threshold", "threshold"),
        Column("why", "why"),
        Column("baseline", "beside it", help="a baseline's figure, or another one to read it by"),
    ]
    rows = variant.shown.result["scorecard"]
    if len(variant.runs) > 1:
        columns.insert(2, Column("seeds", "seeds", help="how many seeds come to the same verdict"))
        rows = [{**line, "seeds": _agreeing(variant, line)} for line in rows]
    return Table(name, look, columns, rows)


def _overview(variants: list[Variant]) -> Table:
    """One verdict a criterion and variant."""
    criteria = list(
        dict.fromkeys(line["criterion"] for v in variants for line in v.shown.result["scorecard"])
    )
    verdicts = [
        {line["criterion"]: line["verdict"] for line in v.shown.result["scorecard"]}
        for v in variants
    ]
    columns = [Column("criterion", "criterion")]
    columns += [Column(str(i), v.name, "verdict") for i, v in enumerate(variants)]
    rows = [
        {"criterion": name, **{str(i): own.get(name) for i, own in enumerate(verdicts)}}
        for name in criteria
    ]
    return Table("scorecard", _LOOK + _seed(variants[0]), columns, rows)


def _seed(variant: Variant) -> str:
    if len(variant.runs) == 1:
        return ""
    return " Of several seeds, the middle one by correlation of change is judged."


def _agreeing(variant: Variant, line: Mapping[str, Any]) -> str:
    """How many seeds come to the same verdict."""
    found = Counter(
        other["verdict"]
        for run in variant.runs
        for other in run.result.get("scorecard") or ()
        if other["criterion"] == line["criterion"]
    )
    return f"{found[line['verdict']]} of {len(variant.runs)}"
