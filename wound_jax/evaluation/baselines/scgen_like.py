"""A constant shift in a linear latent space, after scGen (Lotfollahi et al. 2019, Nat. Methods 16).

Owns scGen's arithmetic with principal components in the place of its variational autoencoder
(scGen-like, linear):

    delta = mean over types of mean latent T - mean over types of mean latent C
    predicted_i = control_i + decode(delta)

Cell types count equally, which is the expectation of scGen's balanced sampling of cells by type in
either arm; within a type all training cells count equally, over strata. Where scGen decodes the
whole cell, only delta is decoded here: what the components leave out of a cell stays with the cell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from wound_jax.evaluation.baselines.learnt import Learnt
from wound_jax.evaluation.baselines.moving import moved
from wound_jax.evaluation.baselines.registry import baseline
from wound_jax.evaluation.baselines.training import Training
from wound_jax.evaluation.strata import Stratum


@baseline("scgen_like_linear")
@dataclass(frozen=True, eq=False)
class ScgenLikeLinear:
    """Every cell moves by the decoded latent shift of its perturbation.

    Attributes:
        training: what is kept of the training strata.
        shifts: perturbation -> decoded delta, float64 [genes].
        non_negative: whether predictions are kept at 0 or above.
    """

    training: Learnt
    shifts: Mapping[str, Float[np.ndarray, " genes"]]
    non_negative: bool

    @classmethod
    def fit(cls, training: Sequence[Stratum], non_negative: bool) -> "ScgenLikeLinear":
        """Average the latent cells of both arms, types with equal weight."""
        prepared = Training.of(training)
        shifts = {}
        for perturbation in dict.fromkeys(stratum.perturbation for stratum in prepared):
            own = [s for s in prepared if s.perturbation == perturbation]
            delta = _balanced_shift(own) @ prepared.components.axes.T
            shifts[perturbation] = delta @ prepared.components.axes
        return cls(prepared.learnt, shifts, non_negative)

    def predict(self, stratum: Stratum) -> Float[np.ndarray, "cells genes"]:
        """Control cells moved by the shift, float32 [cells, genes]."""
        self.training.require_perturbation(stratum.perturbation)
        return moved(stratum.control, self.shifts[stratum.perturbation], self.non_negative)


def _balanced_shift(strata: Sequence[Stratum]) -> Float[np.ndarray, " genes"]:
    """Mean over types of the mean treated cell minus the same of the control cells."""
    shifts = []
    for cell_type in dict.fromkeys(stratum.cell_type for stratum in strata):
        own = [s for s in strata if s.cell_type == cell_type]
        treated = sum(s.treated.sum(axis=0, dtype=np.float64) for s in own)
        control = sum(s.control.sum(axis=0, dtype=np.float64) for s in own)
        n_treated, n_control = sum(s.n_treated for s in own), sum(s.n_control for s in own)
        shifts.append(treated / n_treated - control / n_control)
    return np.mean(shifts, axis=0)
