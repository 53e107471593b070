"""Summary: one sentence, a few numbers, and what to beware of."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from wound_jax.report.blocks import Block, Note, Section, Tiles, Warnings
from wound_jax.report.load import RunResult, Study, Variant
from wound_jax.report.scores import best_baseline, best_variant, difference, method_score
from wound_jax.report.sections.results import passed
from wound_jax.report.words import counted, fixed, method_name, metric_name

_TILES = ("pearson_delta", "pearson_delta_top100", "e_distance_ratio")
# A word in the name of the replicate column -> one, several.
_REPLICATES = {
    "mouse": ("mouse", "mice"),
    "donor": ("donor", "donors"),
    "patient": ("patient", "patients"),
}
# With fewer held-out replicates an interval says little about further ones.
_FEW_REPLICATES = 3
# Training steps at whose end the share of converged transport problems is read.
_LAST_RECORDS = 50
_LEAKY = "Leaky split"


def summary_section(study: Study) -> Section:
    """Headline, numbers, warnings."""
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
        return f"On {_held_out(best)}, no correlation of deltas could be computed for {who}."
    sentence = (
        f"On {_held_out(best)}, {who} predicts the delta (mean treated minus mean control cell) "
        f"with a correlation of {fixed(model, 2)}; {_against(best)}."
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
            f"{counted(n_variants, 'variant', 'variants')}, {counted(n_runs, 'run', 'runs')}"
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
    replicates = "cells of unknown replicates" if n is None else counted(n, one, several)
    kind = split.get("kind")
    if split.get("leaky"):
        return f"held-out cells of {replicates} whose other cells were trained on"
    if kind in ("replicate", "external"):
        return f"{n} held-out {one if n == 1 else several}" if n is not None else replicates
    what = {
        "timepoint": "a held-out timepoint",
        "celltype": "held-out cell types",
        "fewshot": "rarely seen cell types",
    }
    return f"{what.get(str(kind), 'held-out cells')} ({replicates})"


def _replicate_words(config: Mapping[str, Any]) -> tuple[str, str]:
    column = str((config.get("data") or {}).get("replicate_col") or "").lower()
    return next(
        (words for key, words in _REPLICATES.items() if key in column), ("replicate", "replicates")
    )


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


def warnings_of(study: Study) -> list[str]:
    """All warnings of a study, each once, with the variants they hold for."""
    holders: dict[str, list[str]] = {}
    for variant in study.variants:
        for run in variant.runs:
            for text in run_warnings(run):
                names = holders.setdefault(text, [])
                if variant.name not in names:
                    names.append(variant.name)
    everyone = len(study.variants)
    found = [
        text if len(names) == everyone else f"{', '.join(names)}: {text}"
        for text, names in holders.items()
    ]
    # A comparison warns of the split itself.
    told = any("leaky" in text.lower() for text in study.warnings)
    return [*study.warnings, *(text for text in found if not (told and _LEAKY in text))]


def run_warnings(run: RunResult) -> Iterator[str]:
    """The warnings of one run."""
    if (run.config.get("data") or {}).get("source") == "synthetic":
        yield "The cells are simulated: these figures say how the method works, not what wounds do."
    split = run.part("split")
    yield from _split_warnings(split)
    for name, why in (run.result.get("left_out") or {}).items():
        yield f"The baseline {name} is left out: {why}."
    skipped = len(run.result.get("skipped") or ())
    if skipped:
        scored = len(run.result["strata"])
        groups = "group of cells is" if skipped == 1 else "groups of cells are"
        yield (
            f"{skipped} {groups} too small to be scored and left out; {scored} are scored. They "
            "are listed under “By cell type and timepoint”."
        )
    yield from _training_warnings(run)
    uncertainty = run.part("uncertainty")
    if uncertainty.get("units") not in (None, "replicates"):
        yield (
            f"The intervals are drawn over {uncertainty['units']}, not over replicates: they say "
            "nothing about other replicates."
        )


def _split_warnings(split: Mapping[str, Any]) -> Iterator[str]:
    if split.get("leaky"):
        yield (
            f"{_LEAKY}: the scored cells come from replicates whose other cells were trained on. "
            "These figures flatter; hold out replicates to know how the model does on new ones."
        )
    if split.get("trained_on"):
        yield f"{split['trained_on']} of the scored treated cells were trained on; figures flatter."
    if split.get("shared_controls"):
        yield (
            f"{split['shared_controls']} of the scored control cells were seen in training as "
            "controls; only treated cells are held out."
        )
    n = split.get("n_replicates")
    if n is not None and n < _FEW_REPLICATES:
        replicates = "replicate is" if n == 1 else "replicates are"
        yield f"Only {n} {replicates} scored: how replicates differ is hardly known from so few."


def _training_warnings(run: RunResult) -> Iterator[str]:
    steps = max((record["step"] for record in run.records), default=0)
    for section in ("training", "velocity"):
        settings = run.config.get(section) or {}
        warmup = settings.get("warmup_steps") or 0
        if settings.get("enable", True) and steps and warmup > steps:
            yield (
                f"{section}.warmup_steps={warmup}, but the run ended after {steps} steps: only "
                f"{100 * steps / warmup:.0f} % of the full value was reached."
            )
    converged = [r["train/converged"] for r in run.records if r.get("train/converged") is not None]
    tail = converged[-_LAST_RECORDS:]
    share = sum(tail) / len(tail) if tail else 1.0
    if share < 0.99:
        yield (
            f"The Sinkhorn iterations converged in {100 * share:.0f} % of the sets of the last "
            "steps: raise loss.max_iterations or loss.relative_epsilon."
        )
    if run.provenance and not run.provenance.get("finished"):
        yield "A run is not marked as finished: its figures are of an evaluation on the way."
