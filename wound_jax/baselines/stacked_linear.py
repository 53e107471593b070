"""Nine delta rules averaged, with the weights that held-out training strata ask for.

Owns stacking (Breiman 1996, Mach. Learn. 24, 49-64): with e_k the errors of rule k on held-out
training strata,

    w = argmin |sum_k w_k e_k|^2   subject to  w >= 0, sum_k w_k = 1

for each kind of novelty on its own. The errors are those that chose each rule's setting. Where
there are none, the rules count equally. A rule whose delta is implausible in a stratum
(`wound_jax.baselines.plausible`) has no part in it. Its members are named here: it is part of the
model, and a further rule is a rival that must not change it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from wound_jax.baselines.moving import moved
from wound_jax.baselines.plausible import implausible
from wound_jax.baselines.profiles import Novelty
from wound_jax.baselines.registry import baseline
from wound_jax.baselines.rules import FittedDelta, named_rule, tune
from wound_jax.baselines.training import Learnt, Training
from wound_jax.data.strata import Stratum

# Their order is that of the sums over them, to the last digit.
MEMBERS = (
    "additive_ridge",
    "global_mean_delta",
    "type_mean_delta",
    "type_timepoint_mean_delta",
    "gene_wise",
    "kernel_mean_delta",
    "pls_pca",
    "regressed_mean_delta",
    "ridge_pca",
)


@baseline("stacked_linear")
@dataclass(frozen=True, eq=False)
class StackedLinear:
    """A weighted mean of the deltas of the rules in `MEMBERS`.

    Attributes:
        members: the fitted rules, in that order.
        weights: for each kind of novelty the weights of the rules, [members].
        training: what is kept of the training strata.
        non_negative: whether predictions are kept at 0 or above.
    """

    members: Sequence[FittedDelta]
    weights: Mapping[Novelty, Float[np.ndarray, " members"]]
    training: Learnt
    non_negative: bool

    @classmethod
    def fit(
        cls,
        training: Sequence[Stratum],
        non_negative: bool,
        kinds: Iterable[Novelty] = tuple(Novelty),
    ) -> "StackedLinear":
        """Fit the members, then weigh them.

        Args:
            training: strata to learn from.
            non_negative: whether predictions are kept at 0 or above.
            kinds: of novelty that it will be asked about.
        """
        prepared, kinds = Training.of(training), tuple(kinds)
        members = [named_rule(n).fit(prepared, non_negative, kinds) for n in MEMBERS]
        weights = {novelty: _weights(members, prepared, novelty) for novelty in kinds}
        return cls(members, weights, prepared.learnt, non_negative)

    def delta(self, stratum: Stratum) -> Float[np.ndarray, " genes"]:
        """The weighted mean of the rules' deltas, without those that are implausible.

        Raises:
            UserError: no training stratum has the stratum's perturbation.
        """
        deltas = np.stack([member.delta(stratum) for member in self.members])
        weights = self.weights[self.training.novelty_of(stratum)]
        out = implausible(self.training.examples, stratum.control_mean, deltas)
        if out.any():
            # Means of known deltas are plausible, so that some are left.
            weights, deltas = weights[~out], deltas[~out]
            weights = weights if weights.sum() > 0.0 else np.ones(len(weights))
            weights = weights / weights.sum()
        return weights @ deltas

    def predict(self, stratum: Stratum) -> Float[np.ndarray, "cells genes"]:
        """Control cells moved to the deltaed mean, float32 [cells, genes]."""
        return moved(stratum.control, self.delta(stratum), self.non_negative)


def _weights(
    members: Sequence[FittedDelta], training: Training, novelty: Novelty
) -> Float[np.ndarray, " members"]:
    """The weights for one kind of novelty."""
    tuned = [tune(member.rule, training, novelty) for member in members]
    errors = [of_rule.errors for of_rule in tuned if of_rule is not None]
    if not errors:
        return np.full(len(members), 1.0 / len(members))
    finite = np.array([bool(np.isfinite(of_rule).all()) for of_rule in errors])
    weights = np.zeros(len(members))
    weights[finite] = weights_of_least_error(np.stack(errors)[finite])
    return weights


def weights_of_least_error(
    errors: Float[np.ndarray, "members held_out genes"],
) -> Float[np.ndarray, " members"]:
    """Non-negative weights of sum 1 whose weighted error has the smallest square.

    With u >= 0 of sum s and w = u / s, the problem |E u|^2 + (sum u - 1)^2, which non-negative
    least squares solves, is s^2 |E w|^2 + (s - 1)^2; its minimum over s grows with |E w|^2, so that
    w solves the problem with the constraint.

    Args:
        errors: [members, held_out, genes].

    Returns:
        float64 [members].
    """
    # Imported where it is needed: a prediction reads its weights from disk and starts without.
    from scipy.optimize import nnls

    n_members = len(errors)
    flat = errors.reshape(n_members, -1)
    gram = flat @ flat.T
    scale = np.trace(gram) / n_members
    if scale == 0.0:
        return np.full(n_members, 1.0 / n_members)
    sizes, axes = np.linalg.eigh(gram / scale)
    root = np.sqrt(np.maximum(sizes, 0.0))[:, None] * axes.T
    system = np.concatenate([root, np.ones((1, n_members))])
    weights, _ = nnls(system, np.append(np.zeros(n_members), 1.0))
    return weights / weights.sum()
