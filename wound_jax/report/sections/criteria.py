"""What the three biological criteria of an evaluation have in common.

Each is a mapping with "applicable", "reason" where it is not, "accepted", "notes", and its figures.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from wound_jax.report.blocks import Block, Note
from wound_jax.report.load import Study, Variant


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
