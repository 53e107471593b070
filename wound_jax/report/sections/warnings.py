"""What a reader must know before trusting a figure."""

from collections.abc import Iterator, Mapping
from typing import Any

from wound_jax.report.load import RunResult, Study

# With fewer held-out replicates an interval says little about further ones.
_FEW_REPLICATES = 3
# Training steps at whose end the share of converged transport problems is read.
_LAST_RECORDS = 50
_LEAKY = "Leaky split"


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
    skipped = len(run.result.get("skipped") or ())
    if skipped:
        scored = len(run.result["strata"])
        groups = "group of cells is" if skipped == 1 else "groups of cells are"
        yield (
            f"{skipped} {groups} too small to be scored and left out; {scored} are scored. They "
            "are listed under “By cell type and day”."
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
