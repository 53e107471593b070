"""The file of a leave-one-out, and the folds it asks for.

    name: kang_celltype
    leave_out: cell_type
    seeds: [42, 43, 44]
    shared: [recipe.yaml, kang_cells.yaml]
    variants:
      full: {extends: phase3_random_init.yaml}

It is a comparison (`wound_jax.experiments.spec`) that is made once for each label.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from wound_jax.config.schema import RunConfig
from wound_jax.data.annotations import Annotations
from wound_jax.errors import UserError, unknown_name
from wound_jax.experiments.spec import CompareSpec, Texts
from wound_jax.experiments.variants import PlannedVariant, plan_variants

LeaveOut = Literal["cell_type", "replicate", "timepoint"]

# The split that holds one label out.
_SPLITS = {"cell_type": "celltype", "replicate": "replicate", "timepoint": "timepoint"}


class FoldsSpec(CompareSpec):
    """A leave-one-out: every variant is trained with every seed in every fold."""

    leave_out: LeaveOut
    # Which labels are held out, one after the other; null takes all that have treated cells.
    labels: Texts | None = None
    # Whether the label that follows validates; otherwise all other labels train.
    validate_on_next: bool = False


@dataclass(frozen=True)
class Fold:
    """One label held out.

    Attributes:
        label: the label.
        validation: the label that validates; None where none does.
        folder: of the fold.
        variants: their configs and runs.
    """

    label: str
    validation: str | None
    folder: Path
    variants: Sequence[PlannedVariant]


def plan_folds(
    spec: FoldsSpec, path: Path, overrides: Sequence[str], folder: Path, labels: Sequence[str]
) -> list[Fold]:
    """The folds of a leave-one-out, each with the complete configs of its runs.

    Args:
        spec: the file's content.
        path: of the file, for what it names.
        overrides: of the command line.
        folder: where the folds go, each into a folder of its own.
        labels: those to hold out, in order.

    Raises:
        UserError: a config is wrong, or a split is set that the folds set themselves.
    """
    for text in (*spec.overrides, *overrides):
        if text.startswith("split."):
            raise UserError(
                f"{text}: a leave-one-out sets split.* for each fold itself; choose what is held "
                "out by leave_out and labels."
            )
    folds = []
    for place, label in enumerate(labels):
        follows = labels[(place + 1) % len(labels)]
        validation = follows if spec.validate_on_next and follows != label else None
        where = folder / re.sub(r"[^A-Za-z0-9.-]+", "_", label).strip("_")
        split = [*overrides, *_split(spec.leave_out, label, validation)]
        folds.append(Fold(label, validation, where, plan_variants(spec, path, split, where)))
    if len({fold.folder for fold in folds}) < len(folds):
        raise UserError(f"two of the labels {list(labels)} would share a folder; rename one.")
    return folds


def labels_to_leave_out(spec: FoldsSpec, annotations: Annotations, config: RunConfig) -> list[str]:
    """The labels that are held out: those that are asked for, or all that have treated cells.

    Raises:
        UserError: one that is asked for has no treated cell, or there are fewer than two labels.
    """
    of = getattr(annotations, spec.leave_out)
    treated = annotations.condition != config.data.control
    known = [str(label) for label in np.unique(of[treated]) if label]
    if len(known) < 2:
        raise UserError(
            f"leave_out: {spec.leave_out}, but treated cells have {len(known)} labels of it "
            f"({', '.join(known) or 'none'}); expected two at least. Check data.{spec.leave_out}"
            "_col."
        )
    for label in spec.labels or ():
        if label not in known:
            raise unknown_name(f"{spec.leave_out} with treated cells", label, known)
    return list(spec.labels or known)


def _split(leave_out: str, label: str, validation: str | None) -> list[str]:
    held = "null" if validation is None else f"[{validation!r}]"
    return [
        f"split.kind={_SPLITS[leave_out]}",
        f"split.test=[{label!r}]",
        f"split.val={held}",
    ]
