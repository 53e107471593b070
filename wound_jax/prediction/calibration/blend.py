"""The mean of predicted cells, drawn towards what is learnt from the means of training strata.

A network and a rule about means err in different genes, and on unseen cell types neither is the
better one throughout. Combined (Bates and Granger 1969, J. Oper. Res. Soc. 20, 451-468), with n, l
and g the mean cells that they predict in a stratum and r the network's, regressed
(`shrink_controls`),

    mean of the cells = w_n n + w_r r + w_l l + w_g g,     w >= 0, sum w = 1,

while the cells stay the network's: spread, correlations and zeros of the rules are those of control
cells. Expression is scaled gene by gene, so that zeros stay zeros; a gene is doubled at most, what
is still missing is added to all cells. The linear rules, l, are `stacked_linear`, fitted on the
training strata; g is what is learnt across genes (`across_genes`), of unknown cell types alone. A
weight that is given is w_l + w_g, in the proportion that training types left out ask for, and the
rest is r, or n where nothing is regressed; otherwise the weights are those of least squared error
on validation strata.

What is right for new cells of a known stratum is wrong for an unknown cell type, so each kind of
novelty has weights of its own, chosen on validation strata of that kind alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from wound_jax.baselines.profiles import Novelty
from wound_jax.baselines.stacked_linear import StackedLinear, weights_of_least_error
from wound_jax.data.strata import Stratum
from wound_jax.prediction.calibration.across_genes import AcrossGenes
from wound_jax.prediction.calibration.shrink_controls import ShrunkControls

# Scaled by more, the few cells that express a gene would take values that no cell has.
_LARGEST_FACTOR = 2.0
# Where no stratum is at hand to choose by, the two count alike.
NO_CHOICE = 0.5

# Of one stratum: among several, the number of cells differs.
Cells = Float[np.ndarray, "_cells genes"]
Mean = Float[np.ndarray, " genes"]


class Weights(NamedTuple):
    """Shares in the mean of a stratum, of sum 1."""

    network: float = 0.0
    regressed: float = 0.0
    linear: float = 0.0
    genes: float = 0.0


@dataclass(frozen=True, eq=False)
class Members:
    """What means are made of beside the network's.

    Attributes:
        rule: the linear rules, fitted on the training strata.
        regression: of the network's means; None where nothing is regressed.
        genes: what is learnt across genes; None where it is not asked for.
    """

    rule: StackedLinear
    regression: ShrunkControls | None = None
    genes: AcrossGenes | None = None

    def means(self, cells: Cells, stratum: Stratum) -> dict[str, Mean]:
        """The mean cell that each predicts for a stratum, those that say something of their own.

        Args:
            cells: the network's, [n_control, genes].
            stratum: its control cells.
        """
        network = _mean(cells)
        means = {"network": network, "linear": self._moved(stratum, self.rule.delta(stratum))}
        if self.regression is not None:
            regressed = self.regression.mean(network, stratum)
            # Where nothing is regressed its mean is the network's, and so is its weight.
            if not np.array_equal(regressed, network):
                means["regressed"] = regressed
        if self.genes is not None and self.genes.applies(stratum):
            means["genes"] = self._moved(stratum, self.genes.delta(stratum))
        return means

    def _moved(self, stratum: Stratum, delta: Mean) -> Mean:
        """The mean cell after a delta; 0 where it would take a gene below it."""
        mean = stratum.control_mean + delta
        return np.maximum(mean, 0.0) if self.rule.non_negative else mean


@dataclass(frozen=True, eq=False)
class Blend:
    """How far the mean of predicted cells is drawn towards what training strata teach.

    Attributes:
        members: what means are made of.
        weights: for each kind of novelty.
        chosen_by: where each kind's weights are from, in words.
    """

    members: Members
    weights: Mapping[Novelty, Weights]
    chosen_by: Mapping[Novelty, str]

    def weight(self, stratum: Stratum) -> Weights:
        """The shares in the mean of a stratum."""
        weights = self.weights[self.members.rule.training.novelty_of(stratum)]
        genes = self.members.genes
        if weights.genes and (genes is None or not genes.applies(stratum)):
            # Another perturbation, of too few known types: its part is the linear rules'.
            return weights._replace(linear=weights.linear + weights.genes, genes=0.0)
        return weights

    def figures(self, stratum: Stratum) -> dict[str, float]:
        """The shares by name, and the slope that the network's mean is regressed with."""
        figures = self.weight(stratum)._asdict()
        if self.members.regression is not None:
            figures["slope"] = self.members.regression.slope(stratum)
        return figures

    def apply(self, cells: Cells, stratum: Stratum) -> Cells:
        """The predicted cells of a stratum with the combined mean, float32 [cells, genes]."""
        weights = self.weight(stratum)
        if weights.network == 1.0:
            return cells
        means = self.members.means(cells, stratum)
        # Regressed where there is nothing to regress is as the network predicts it.
        wanted = sum(
            weight * means.get(name, means["network"])
            for name, weight in weights._asdict().items()
            if weight
        )
        delta = np.asarray(wanted) - means["network"]
        if self.members.rule.non_negative:
            return _scaled(cells, delta)
        return cells + delta.astype(np.float32)


def blend(
    members: Members,
    weight: float | str,
    strata: Sequence[Stratum] = (),
    predicted: Sequence[Cells] = (),
) -> Blend:
    """The share that a config asks for.

    Args:
        members: fitted on the training strata.
        weight: the share of the rules, or "auto".
        strata: validation strata, for "auto"; none of their treated cells were trained on.
        predicted: the network's cells for each, [n_control, genes].
    """
    if weight != "auto":
        given = {novelty: _without_choice(float(weight), members, novelty) for novelty in Novelty}
        return Blend(members, given, dict.fromkeys(Novelty, "given"))
    weights, chosen_by = {}, {}
    for novelty in Novelty:
        judges = [
            (stratum, cells)
            for stratum, cells in zip(strata, predicted, strict=True)
            if members.rule.training.novelty_of(stratum) is novelty
        ]
        weights[novelty] = (
            _best_weights(members, judges)
            if judges
            else _without_choice(NO_CHOICE, members, novelty)
        )
        word = "stratum" if len(judges) == 1 else "strata"
        chosen_by[novelty] = f"{len(judges)} validation {word} of this kind"
    return Blend(members, weights, chosen_by)


def _without_choice(share: float, members: Members, novelty: Novelty) -> Weights:
    """The rules' share as it is given; the rest is the network's, regressed if anything is."""
    unknown_type = novelty is Novelty.TYPE
    # An unknown type has no controls in training that its own could be regressed to.
    rest = "network" if members.regression is None or unknown_type else "regressed"
    genes = 0.0
    if members.genes is not None and unknown_type:
        genes = share * members.genes.weight
    return Weights(**{rest: 1.0 - share}, linear=share - genes, genes=genes)


def _best_weights(members: Members, judges: Sequence[tuple[Stratum, Cells]]) -> Weights:
    """The weights of least squared error."""
    means = [members.means(cells, stratum) for stratum, cells in judges]
    # The order is that of the weights; what one of the strata lacks is not weighed.
    names = [name for name in Weights._fields if all(name in of for of in means)]
    measured = np.stack([stratum.control_mean + stratum.mean_delta for stratum, _ in judges])
    errors = np.stack([np.stack([of[name] for of in means]) - measured for name in names])
    return Weights(**dict(zip(names, map(float, weights_of_least_error(errors)), strict=True)))


def _scaled(cells: Cells, delta: Mean) -> Cells:
    """Non-negative cells whose mean has moved by the delta; below 0 it does not go."""
    mean = _mean(cells)
    wanted = np.maximum(mean + delta, 0.0)
    factor = np.clip(wanted / np.where(mean > 0.0, mean, 1.0), 0.0, _LARGEST_FACTOR)
    # Not below 0 by rounding, where nothing is missing.
    missing = np.maximum(wanted - mean * factor, 0.0)
    return (cells * factor + missing).astype(np.float32)


def _mean(cells: Cells) -> Mean:
    return cells.mean(axis=0, dtype=np.float64)
