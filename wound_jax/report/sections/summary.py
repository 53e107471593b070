"""The first thing a reader sees: one sentence, a few figures, and what to beware of."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wound_jax.report.blocks import Block, Note, Section
from wound_jax.report.glossary import method_name, metric_name
from wound_jax.report.load import Study, Variant
from wound_jax.report.markup import Html, fixed, tag
from wound_jax.report.scores import best_baseline, best_variant, difference, method_score
from wound_jax.report.sections.scorecard import passed
from wound_jax.report.sections.warnings import warnings_of

_TILES = ("pearson_delta", "pearson_delta_top100", "e_distance_ratio")
# A word in the name of the replicate column -> one, several.
_REPLICATES = {
    "mouse": ("mouse", "mice"),
    "donor": ("donor", "donors"),
    "patient": ("patient", "patients"),
}


@dataclass(frozen=True)
class Tiles:
    """A few large figures side by side.

    Attributes:
        tiles: (what, figure, what stands beside it).
    """

    tiles: Sequence[tuple[str, str, str]]

    def html(self) -> Html:
        """The tiles."""
        return tag("div", *(_tile(*one) for one in self.tiles), class_="tiles")


@dataclass(frozen=True)
class Warnings:
    """A marked list of warnings.

    Attributes:
        texts: at least one.
    """

    texts: Sequence[str]

    def html(self) -> Html:
        """The list."""
        items = tag("ul", *(tag("li", text) for text in self.texts))
        return tag("div", items, class_="warnings", role="note", aria_label="Warnings")


def summary_section(study: Study) -> Section:
    """Headline, figures, warnings."""
    best = best_variant(study)
    blocks: list[Block] = [Note(headline(study), "headline"), Tiles(_tiles(best))]
    texts = warnings_of(study)
    blocks.append(Warnings(texts) if texts else Note("No warnings."))
    return Section("summary", "Summary", blocks)


def headline(study: Study) -> str:
    """What was found, in one or two plain sentences."""
    best = best_variant(study)
    who = "the model"
    if len(study.variants) > 1:
        who = f"the best of {len(study.variants)} variants, {best.name},"
    model = method_score(best, "model", "pearson_delta").value
    if math.isnan(model):
        return f"On {_held_out(best)}, no correlation of change could be computed for {who}."
    sentence = (
        f"On {_held_out(best)}, {who} predicts the change of expression with a correlation of "
        f"{fixed(model, 2)}; {_against(best)}."
    )
    ceiling = method_score(best, "ceiling", "pearson_delta").value
    if not math.isnan(ceiling):
        sentence += f" Measured replicates reach {fixed(ceiling, 2)}."
    return sentence


def facts(study: Study) -> str:
    """The line below the title: data, split, sizes."""
    variant = study.variants[0]
    split = variant.shown.part("split")
    n_runs, n_variants = len(study.runs), len(study.variants)
    parts = [
        str(variant.shown.provenance.get("data") or "data not recorded"),
        f"split by {split.get('kind', '?')}" + (" (leaky)" if split.get("leaky") else ""),
        f"{len(variant.shown.result['strata'])} groups of cells scored",
    ]
    if n_variants > 1 or n_runs > 1:
        parts.append(
            f"{_counted(n_variants, 'variant', 'variants')}, {_counted(n_runs, 'run', 'runs')}"
        )
    return " · ".join(parts)


def _against(variant: Variant) -> str:
    """The model against its best baseline, as the interval allows to say it."""
    rival = best_baseline(variant, "pearson_delta")
    if rival is None:
        return "there is no baseline to compare it with"
    gap = difference(variant, "pearson_delta")
    size = fixed(abs(gap.value), 2)
    name = f"the best baseline ({method_name(rival)}, "
    name += f"{fixed(method_score(variant, rival, 'pearson_delta').value, 2)})"
    if gap.low is None or gap.high is None:
        word = "better" if gap.value > 0 else "worse"
        return f"that is {word} than {name} by {size}, but no interval says how sure this is"
    bounds = f"[{fixed(gap.low, 2)}, {fixed(gap.high, 2)}]"
    if not gap.clear:
        return f"that is no clear difference to {name}: {fixed(gap.value, 2)} {bounds}"
    if gap.value > 0:
        return f"that is better than {name} by {size} {bounds}"
    return f"that is worse than {name} by {size} {bounds}"


def _held_out(variant: Variant) -> str:
    """The units that were held out, in words."""
    split = variant.shown.part("split")
    n = split.get("n_replicates")
    one, several = _replicate_words(variant.shown.config)
    replicates = "cells of unknown replicates" if n is None else _counted(n, one, several)
    kind = split.get("kind")
    if split.get("leaky"):
        return f"held-out cells of {replicates} whose other cells were trained on"
    if kind in ("replicate", "external"):
        return f"{n} held-out {one if n == 1 else several}" if n is not None else replicates
    what = {
        "timepoint": "a held-out day",
        "celltype": "held-out cell types",
        "fewshot": "rarely seen cell types",
    }
    return f"{what.get(str(kind), 'held-out cells')} ({replicates})"


def _replicate_words(config: Mapping[str, Any]) -> tuple[str, str]:
    column = str((config.get("data") or {}).get("replicate_col") or "").lower()
    return next(
        (words for key, words in _REPLICATES.items() if key in column), ("replicate", "replicates")
    )


def _counted(n: int, one: str, several: str) -> str:
    return f"{n} {one if n == 1 else several}"


def _tiles(variant: Variant) -> list[tuple[str, str, str]]:
    tiles = []
    for metric in _TILES:
        value = method_score(variant, "model", metric).value
        rival = best_baseline(variant, metric)
        if math.isnan(value) or rival is None:
            continue
        other = fixed(method_score(variant, rival, metric).value, 2)
        tiles.append((metric_name(metric), fixed(value, 2), f"best baseline {other}"))
    n_passed, n_failed, undecided = passed(variant)
    if n_passed + n_failed + undecided:
        beside = f"{n_failed} failed, {undecided} cannot be computed"
        tiles.append(("criteria passed", str(n_passed), beside))
    return tiles


def _tile(what: str, figure: str, beside: str) -> Html:
    return tag(
        "div",
        tag("span", what, class_="what"),
        tag("span", figure, class_="figure"),
        tag("span", beside, class_="beside"),
        class_="tile",
    )
