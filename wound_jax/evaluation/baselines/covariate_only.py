"""The mean treated cell of the labels, whatever the control cells are: a collapse probe.

Owns the one baseline that does not move cells. It is what a decoder can learn that ignores its
input, and it is constant over the cells of a stratum on purpose:

    predicted_i = mean over training strata of the same (type, timepoint) of mean T

A model that does not beat it on delta correlation uses labels alone; a distance between sets that
it does well on rewards collapse.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from wound_jax.evaluation.baselines.learnt import Learnt
from wound_jax.evaluation.baselines.mean_shifts import type_timepoint_mean
from wound_jax.evaluation.baselines.registry import baseline
from wound_jax.evaluation.baselines.training import Training
from wound_jax.evaluation.strata import Stratum


@baseline("covariate_only")
@dataclass(frozen=True, eq=False)
class CovariateOnly:
    """The mean treated training cell of the type at the timepoint, for every cell.

    An unknown pair falls back as `type_timepoint_mean_shift` does.

    Attributes:
        training: what is kept of the training strata.
        treated: float64 [strata, genes], their mean treated cells.
    """

    training: Learnt
    treated: Float[np.ndarray, "strata genes"]

    @classmethod
    def fit(cls, training: Sequence[Stratum], non_negative: bool) -> "CovariateOnly":
        """Average the treated cells; means of values that are not negative are not either."""
        prepared = Training.of(training)
        examples = prepared.examples
        return cls(prepared.learnt, examples.profiles.control + examples.shifts)

    def predict(self, stratum: Stratum) -> Float[np.ndarray, "cells genes"]:
        """The same cell as often as there are control cells, float32 [cells, genes]."""
        self.training.require_perturbation(stratum.perturbation)
        known = self.training.examples.profiles
        rows = known.perturbation == stratum.perturbation
        wanted = self.training.profiles([stratum])
        mean = type_timepoint_mean(known.take(rows), self.treated[rows], wanted)
        return np.repeat(mean.astype(np.float32), stratum.n_control, axis=0)
