"""How training went: losses, gradient norms, and the figures of its smoothness."""

from collections.abc import Sequence

import numpy as np

from wound_jax.report.blocks import Block, Column, Figure, Note, Section, Table, absent
from wound_jax.report.figures.curves import Bundle, draw_curves, read_curve, series_style
from wound_jax.report.load import Study
from wound_jax.report.sections.common import variant_column
from wound_jax.report.svg import finite, legend

_PANELS = {
    "train/loss": "Training loss",
    "val/loss": "Validation loss",
    "train/grad_norm": "Gradient norm, before the clip",
}
# Key of the results -> (heading, decimals, meaning).
_FIGURES = {
    "untrained_loss": ("untrained loss", 4, "validation loss before the first step"),
    "best_loss": ("best loss", 4, "lowest validation loss"),
    "identity_loss": ("no-change loss", 4, "validation loss of the prediction of no change"),
    "improvement": ("improvement", 3, "(untrained - best) / untrained; easy to get"),
    "improvement_on_identity": (
        "improvement on no change",
        3,
        "(no-change loss - best loss) / no-change loss; this one decides",
    ),
    "loss_cv": (
        "loss variation",
        4,
        "standard deviation over mean of the training loss in the last tenth of the steps, its "
        "trend removed",
    ),
    "loss_variance": ("loss variance", 4, "the same as a raw variance, in the loss's own unit"),
    "spikes_per_epoch": (
        "spikes per epoch",
        2,
        "steps whose gradient norm exceeds the median of the 200 before by 6 median deviations",
    ),
    "spikes_per_1000": ("spikes per 1,000 steps", 2, "the same for each 1,000 steps"),
    "clip_rate": ("clipped steps", 3, "share of steps whose gradient was clipped"),
}


def training_section(study: Study) -> Section:
    """Curves of all variants, and the figures of their training."""
    id, title = "training", "Training"
    bundles = {key: _bundles(study, key) for key in _PANELS}
    drawn = {key: found for key, found in bundles.items() if any(b.curves for b in found)}
    if not drawn:
        return absent(id, title, "the runs have no metrics.jsonl with losses.")
    blocks: list[Block] = [
        Figure(
            panels=[draw_curves(found, _PANELS[key]) for key, found in drawn.items()],
            look="The validation loss should fall with the training loss and level off; where it "
            "rises while the training loss still falls, the model memorises. The gradient norm "
            "should show no lasting jumps. " + _lines(study),
            legend=legend((v.name, *series_style(i)) for i, v in enumerate(study.variants)),
        )
    ]
    losses = {str(run.config.get("loss", {}).get("name")) for run in study.runs}
    if len(losses) > 1:
        names = ", ".join(sorted(losses))
        blocks.append(
            Note(f"The variants minimise different losses ({names}): compare shapes, not heights.")
        )
    blocks.append(_figures(study))
    return Section(id, title, blocks)


def _bundles(study: Study, key: str) -> list[Bundle]:
    """The curves of each variant; none of a variant that did not log the quantity."""
    found = []
    for variant in study.variants:
        curves = (read_curve(run.records, key) for run in variant.runs)
        found.append(Bundle(variant.name, [curve for curve in curves if curve is not None]))
    return found


def _lines(study: Study) -> str:
    """What the lines are, with n."""
    n = max(len(variant.runs) for variant in study.variants)
    if n == 1:
        return "The bold line is a running median of the faint one, n = 1 seed."
    return f"Faint lines are single seeds (n up to {n}), bold ones running medians of their mean."


def _figures(study: Study) -> Block:
    """The figures of training, averaged over the seeds."""
    present = [
        key
        for key in _FIGURES
        if any(run.part("training").get(key) is not None for run in study.runs)
    ]
    if not present:
        return Note("The figures of training are missing from these evaluations.", "absent")
    columns: Sequence[Column] = [
        variant_column(study),
        Column("seeds", "seeds", "number"),
        *(
            Column(key, _FIGURES[key][0], "number", _FIGURES[key][2], _FIGURES[key][1])
            for key in present
        ),
    ]
    rows = []
    for variant in study.variants:
        row: dict = {"variant": variant.name, "seeds": len(variant.runs)}
        for key in present:
            values = finite(run.part("training").get(key) for run in variant.runs)
            row[key] = float(np.mean(values)) if values.size else None
        rows.append(row)
    look = (
        "Improvement over the no-change loss is the figure that decides; smooth curves alone are "
        "no evidence of quality. Means over seeds."
    )
    return Table("training", look, columns, rows)
