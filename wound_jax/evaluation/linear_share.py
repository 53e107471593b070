"""The mean of predicted cells, drawn towards that of the linear rules.

A network and a linear rule err in different genes, and on unseen cell types neither is the better
one throughout. Combined (Bates and Granger 1969, J. Oper. Res. Soc. 20, 451-468), with n, l the
mean cells that they predict in a stratum,

    mean of the cells = (1 - w) n + w l,

while the cells stay the network's: spread, correlations and zeros of the linear rules are those of
control cells. Expression is scaled gene by gene, so that zeros stay zeros; a gene is doubled at
most, what is still missing is added to all cells. The linear rules are `stacked_linear`, fitted on
the training strata. The weight is given, or that of least squared error on validation strata t,

    w = sum_t <n_t - y_t, n_t - l_t> / sum_t |n_t - l_t|^2,    kept within [0, 1].

What is right for new cells of a known stratum is wrong for an unknown cell type, so each kind of
novelty has a weight of its own, chosen on validation strata of that kind alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from wound_jax.evaluation.baselines.profiles import Novelty
from wound_jax.evaluation.baselines.stacked_linear import StackedLinear
from wound_jax.evaluation.strata import Stratum

# Scaled by more, the few cells that express a gene would take values that no cell has.
_LARGEST_FACTOR = 2.0
# Where no stratum is at hand to choose by, the two count alike.
NO_CHOICE = 0.5

Cells = Float[np.ndarray, "cells genes"]


@dataclass(frozen=True, eq=False)
class LinearShare:
    """How far the mean of predicted cells is drawn towards the linear rules.

    Attributes:
        rule: the linear rules, fitted on the training strata.
        weights: their share in the mean for each kind of novelty, in [0, 1].
        chosen_by: where each weight is from, in words.
    """

    rule: StackedLinear
    weights: Mapping[Novelty, float]
    chosen_by: Mapping[Novelty, str]

    def weight(self, stratum: Stratum) -> float:
        """The share of the rules in the mean of a stratum."""
        return self.weights[self.rule.training.novelty_of(stratum)]

    def apply(self, cells: Cells, stratum: Stratum) -> Cells:
        """The predicted cells of a stratum with the combined mean, float32 [cells, genes]."""
        weight = self.weight(stratum)
        if weight == 0.0:
            return cells
        shift = weight * (_linear_mean(self.rule, stratum) - _mean(cells))
        return _scaled(cells, shift) if self.rule.non_negative else cells + shift.astype(np.float32)


def linear_share(
    rule: StackedLinear,
    weight: float | str,
    strata: Sequence[Stratum] = (),
    predicted: Sequence[Cells] = (),
) -> LinearShare:
    """The share that a config asks for.

    Args:
        rule: fitted on the training strata.
        weight: the share, or "auto".
        strata: validation strata, for "auto"; none of their treated cells were trained on.
        predicted: the network's cells for each, [n_control, genes].
    """
    if weight != "auto":
        given = float(weight)
        return LinearShare(rule, dict.fromkeys(Novelty, given), dict.fromkeys(Novelty, "given"))
    weights, chosen_by = {}, {}
    for novelty in Novelty:
        judges = [
            (stratum, cells)
            for stratum, cells in zip(strata, predicted, strict=True)
            if rule.training.novelty_of(stratum) is novelty
        ]
        weights[novelty] = _best_weight(rule, judges)
        word = "stratum" if len(judges) == 1 else "strata"
        chosen_by[novelty] = f"{len(judges)} validation {word} of this kind"
    return LinearShare(rule, weights, chosen_by)


def _best_weight(rule: StackedLinear, judges: Sequence[tuple[Stratum, Cells]]) -> float:
    """The share of least squared error; `NO_CHOICE` where there is nothing to choose by."""
    if not judges:
        return NO_CHOICE
    network = np.stack([_mean(cells) for _, cells in judges])
    linear = np.stack([_linear_mean(rule, stratum) for stratum, _ in judges])
    measured = np.stack([stratum.control_mean + stratum.mean_delta for stratum, _ in judges])
    apart = np.square(network - linear).sum()
    if apart == 0.0:
        return NO_CHOICE
    best = np.sum((network - measured) * (network - linear)) / apart
    return float(np.clip(best, 0.0, 1.0))


def _scaled(cells: Cells, shift: Float[np.ndarray, " genes"]) -> Cells:
    """Non-negative cells whose mean has moved by the shift; below 0 it does not go."""
    mean = _mean(cells)
    wanted = np.maximum(mean + shift, 0.0)
    factor = np.clip(wanted / np.where(mean > 0.0, mean, 1.0), 0.0, _LARGEST_FACTOR)
    # Not below 0 by rounding, where nothing is missing.
    missing = np.maximum(wanted - mean * factor, 0.0)
    return (cells * factor + missing).astype(np.float32)


def _linear_mean(rule: StackedLinear, stratum: Stratum) -> Float[np.ndarray, " genes"]:
    """The mean cell that the rules predict; 0 where they would take a gene below it."""
    mean = stratum.control_mean + rule.shift(stratum)
    return np.maximum(mean, 0.0) if rule.non_negative else mean


def _mean(cells: Cells) -> Float[np.ndarray, " genes"]:
    return cells.mean(axis=0, dtype=np.float64)
