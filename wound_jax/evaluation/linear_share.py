"""The mean of predicted cells, drawn towards that of the linear rules.

A network and a linear rule err in different genes, and on unseen cell types neither is the better
one throughout. Combined (Bates and Granger 1969, J. Oper. Res. Soc. 20, 451-468), with n, l the
mean cells that they predict in a stratum and r the network's, regressed (`control_regression`),

    mean of the cells = w_n n + w_r r + w_l l,     w >= 0, sum w = 1,

while the cells stay the network's: spread, correlations and zeros of the linear rules are those of
control cells. Expression is scaled gene by gene, so that zeros stay zeros; a gene is doubled at
most, what is still missing is added to all cells. The linear rules are `stacked_linear`, fitted on
the training strata. A weight that is given is w_l, and the rest is r, or n where nothing is
regressed; otherwise the weights are those of least squared error on validation strata.

What is right for new cells of a known stratum is wrong for an unknown cell type, so each kind of
novelty has weights of its own, chosen on validation strata of that kind alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from wound_jax.evaluation.baselines.profiles import Novelty
from wound_jax.evaluation.baselines.stacked_linear import StackedLinear, weights_of_least_error
from wound_jax.evaluation.control_regression import ControlRegression
from wound_jax.evaluation.strata import Stratum

# Scaled by more, the few cells that express a gene would take values that no cell has.
_LARGEST_FACTOR = 2.0
# Where no stratum is at hand to choose by, the two count alike.
NO_CHOICE = 0.5

Cells = Float[np.ndarray, "cells genes"]


class Weights(NamedTuple):
    """Shares in the mean of a stratum, of sum 1."""

    network: float
    regressed: float
    linear: float


@dataclass(frozen=True, eq=False)
class LinearShare:
    """How far the mean of predicted cells is drawn towards the linear rules.

    Attributes:
        rule: the linear rules, fitted on the training strata.
        regression: of the network's means; None where nothing is regressed.
        weights: for each kind of novelty.
        chosen_by: where each kind's weights are from, in words.
    """

    rule: StackedLinear
    regression: ControlRegression | None
    weights: Mapping[Novelty, Weights]
    chosen_by: Mapping[Novelty, str]

    def weight(self, stratum: Stratum) -> Weights:
        """The shares in the mean of a stratum."""
        return self.weights[self.rule.training.novelty_of(stratum)]

    def figures(self, stratum: Stratum) -> dict[str, float]:
        """The shares by name, and the slope that the network's mean is regressed with."""
        figures = self.weight(stratum)._asdict()
        if self.regression is not None:
            figures["slope"] = self.regression.slope(stratum)
        return figures

    def apply(self, cells: Cells, stratum: Stratum) -> Cells:
        """The predicted cells of a stratum with the combined mean, float32 [cells, genes]."""
        weights = self.weight(stratum)
        if weights.network == 1.0:
            return cells
        means = _means(self.rule, self.regression, cells, stratum)
        shift = np.array(weights) @ means - means[0]
        return _scaled(cells, shift) if self.rule.non_negative else cells + shift.astype(np.float32)


def linear_share(
    rule: StackedLinear,
    weight: float | str,
    strata: Sequence[Stratum] = (),
    predicted: Sequence[Cells] = (),
    *,
    regression: ControlRegression | None = None,
) -> LinearShare:
    """The share that a config asks for.

    Args:
        rule: fitted on the training strata.
        weight: the share of the rules, or "auto".
        strata: validation strata, for "auto"; none of their treated cells were trained on.
        predicted: the network's cells for each, [n_control, genes].
        regression: of the network's means, where they are to be regressed.
    """
    if weight != "auto":
        given = _without_choice(float(weight), regression)
        by = dict.fromkeys(Novelty, "given")
        return LinearShare(rule, regression, dict.fromkeys(Novelty, given), by)
    weights, chosen_by = {}, {}
    for novelty in Novelty:
        judges = [
            (stratum, cells)
            for stratum, cells in zip(strata, predicted, strict=True)
            if rule.training.novelty_of(stratum) is novelty
        ]
        weights[novelty] = _best_weights(rule, regression, judges)
        word = "stratum" if len(judges) == 1 else "strata"
        chosen_by[novelty] = f"{len(judges)} validation {word} of this kind"
    return LinearShare(rule, regression, weights, chosen_by)


def _without_choice(linear: float, regression: ControlRegression | None) -> Weights:
    """The rules' share as it is given; the rest is the network's, regressed if anything is."""
    rest = 1.0 - linear
    return Weights(rest, 0.0, linear) if regression is None else Weights(0.0, rest, linear)


def _best_weights(
    rule: StackedLinear,
    regression: ControlRegression | None,
    judges: Sequence[tuple[Stratum, Cells]],
) -> Weights:
    """The weights of least squared error; `NO_CHOICE` where there is nothing to choose by."""
    if not judges:
        return _without_choice(NO_CHOICE, regression)
    means = np.stack([_means(rule, regression, cells, stratum) for stratum, cells in judges], 1)
    measured = np.stack([stratum.control_mean + stratum.mean_delta for stratum, _ in judges])
    # Where nothing is regressed its mean is the network's, and so is its weight.
    if np.array_equal(means[0], means[1]):
        network, linear = weights_of_least_error(means[[0, 2]] - measured)
        return Weights(float(network), 0.0, float(linear))
    return Weights(*(float(w) for w in weights_of_least_error(means - measured)))


def _means(
    rule: StackedLinear, regression: ControlRegression | None, cells: Cells, stratum: Stratum
) -> Float[np.ndarray, "members genes"]:
    """Mean cells of a stratum: the network's, the same regressed, the linear rules'."""
    network = _mean(cells)
    regressed = network if regression is None else regression.mean(network, stratum)
    return np.stack([network, regressed, _linear_mean(rule, stratum)])


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
