"""Training strata held out of training, to choose what a baseline leaves open.

Owns the folds. A setting that is right for new cells of a known stratum (trust the stratum's own
delta) is wrong for an unknown cell type (trust what types have in common), so each kind of novelty
has folds of its own, made of training strata alone:

    NONE        a part of the replicates is left out of every stratum (`parts`), and their mean is
                predicted from the other replicates; fewer than ten cells are too noisy to judge by
    PAIR        one (cell type, timepoint) is left out
    TIMEPOINT   one timepoint is left out
    TYPE        one cell type is left out

A left-out stratum judges only if its novelty is the one in question. The components stay those of
all training cells.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from wound_jax.baselines.profiles import Examples, Novelty
from wound_jax.baselines.training import Means, Training, part_sums

# Cells in each arm of the part of a stratum that rules are judged by.
_MIN_JUDGES = 10


@dataclass(frozen=True, eq=False)
class Fold:
    """Strata to learn from and strata to judge by."""

    kept: Examples
    held_out: Examples


def folds_of(training: Training, novelty: Novelty) -> tuple[Fold, ...]:
    """The folds of one kind of novelty; none where the strata cannot show it."""
    return training.once(("folds", novelty), lambda: tuple(_folds(training, novelty)))


def _folds(training: Training, novelty: Novelty) -> Iterator[Fold]:
    examples = training.examples
    of = examples.profiles
    if novelty is Novelty.NONE:
        return _part_left_out(training)
    if novelty is Novelty.TIMEPOINT:
        return _label_left_out(examples, of.timepoint, novelty)
    if novelty is Novelty.TYPE:
        return _label_left_out(examples, of.cell_type, novelty)
    pair = np.empty(len(of), dtype=object)
    pair[:] = list(zip(of.cell_type, of.timepoint, strict=True))
    return _label_left_out(examples, pair, novelty)


def _label_left_out(examples: Examples, labels: np.ndarray, novelty: Novelty) -> Iterator[Fold]:
    """The folds that leave out one label at a time."""
    for label in dict.fromkeys(labels):
        out = np.array([other == label for other in labels])
        yield from _judged(examples.take(~out), examples.take(out), novelty)


def _part_left_out(training: Training) -> Iterator[Fold]:
    """The folds that leave out one part of the cells of every stratum."""
    control, treated = part_sums(training)
    for part in range(control.n_parts):
        kept = _examples(training, control.without(part), treated.without(part), 1)
        left_out = _examples(training, control.only(part), treated.only(part), _MIN_JUDGES)
        yield from _judged(kept, left_out, Novelty.NONE)


def _examples(training: Training, control: Means, treated: Means, min_cells: int) -> Examples:
    """The training strata with other means, as far as these are of enough cells in both arms."""
    rows = np.minimum(control.counts, treated.counts) >= min_cells
    means = control.means[rows]
    of = replace(
        training.examples.profiles.take(rows),
        control=means,
        scores=training.components.project(means),
    )
    return Examples(of, treated.means[rows] - means)


def _judged(kept: Examples, left_out: Examples, novelty: Novelty) -> Iterator[Fold]:
    """The fold of the left-out strata of one novelty, if there are any to learn from and judge."""
    novelties = kept.profiles.novelty_of(left_out.profiles)
    known = set(kept.profiles.perturbation)
    rows = [
        row
        for row, perturbation in enumerate(left_out.profiles.perturbation)
        if perturbation in known and novelties[row] is novelty
    ]
    if rows:
        yield Fold(kept, left_out.take(rows))
