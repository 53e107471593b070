"""The metrics of mean profiles, for all draws at once.

Means of weighted cells are linear in the means of the holders of cells, so that

    true(w) = sum_h share_h(w) T_h - sum_h share_h(w) C_h        treated, control means
    predicted(w) = sum_h share_h(w) (P_h - C_h)                  predictions weigh as their controls

and every inner product over genes that a correlation or a squared error is made of is a quadratic
form of the shares in one small Gram matrix: no profile of a draw is ever written out.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from wound_jax.evaluation.context import ScoreContext
from wound_jax.evaluation.strata import Stratum
from wound_jax.evaluation.uncertainty.weights import ArmWeights, quadratic_forms

# As in the metrics: below this share of the mean control cell, a predicted delta is rounding.
_ZERO_DELTA = 1e-6
# Squared, against the largest holder's: below it a profile is the rounding of float64 products.
_FLAT = 1e-14


class MeanProfiles:
    """The mean profiles of one stratum.

    Args:
        stratum: the real cells.
        control: weights of its control cells.
        treated: weights of its treated cells.
        context: names the genes of `pearson_delta_top100`.
    """

    def __init__(
        self, stratum: Stratum, control: ArmWeights, treated: ArmWeights, context: ScoreContext
    ):
        self._control = control
        self._control_means = control.holder_means(stratum.control)
        self._top = context.top_genes_of(stratum)
        # About the mean control cell, so that the products keep the digits of the differences.
        self._real = np.concatenate([treated.holder_means(stratum.treated), self._control_means])
        self._real -= stratum.control_mean
        self._true = np.concatenate([treated.shares, -control.shares], axis=1)
        means, shares = self._control_means, control.shares
        self._control_size = quadratic_forms(means @ means.T, shares, shares)

    def score(self, predicted: Float[np.ndarray, "cells genes"]) -> Mapping[str, np.ndarray]:
        """`pearson_delta`, `pearson_delta_top100` and `mse` of every row of weights.

        Args:
            predicted: [n_control, genes], row i made from control cell i.

        Returns:
            metric name -> float64 [rows]; NaN where an arm has no cell, and as in the metrics.
        """
        shifts = self._control.holder_means(predicted) - self._control_means
        tt, tp, pp = self._inner(self._real, shifts)
        unchanged = pp <= _ZERO_DELTA**2 * self._control_size
        return {
            "pearson_delta": self._correlation(self._real, shifts, unchanged),
            "pearson_delta_top100": self._correlation(
                self._real[:, self._top], shifts[:, self._top], unchanged
            ),
            "mse": np.maximum(pp - 2 * tp + tt, 0.0) / predicted.shape[1],
        }

    def _inner(self, real: np.ndarray, shifts: np.ndarray) -> tuple[np.ndarray, ...]:
        """|true|^2, true . predicted and |predicted|^2 of every row."""
        true, made = self._true, self._control.shares
        return (
            quadratic_forms(real @ real.T, true, true),
            quadratic_forms(real @ shifts.T, true, made),
            quadratic_forms(shifts @ shifts.T, made, made),
        )

    def _correlation(
        self, real: np.ndarray, shifts: np.ndarray, unchanged: np.ndarray
    ) -> Float[np.ndarray, " rows"]:
        """Pearson correlation over genes; 0 where the prediction, NaN where the truth is flat."""
        real, shifts = (rows - rows.mean(axis=1, keepdims=True) for rows in (real, shifts))
        tt, tp, pp = self._inner(real, shifts)
        true_is_flat = tt <= _FLAT * np.square(real).sum(axis=1).max()
        flat = unchanged | (pp <= _FLAT * np.square(shifts).sum(axis=1).max())
        with np.errstate(invalid="ignore", divide="ignore"):
            correlation = np.clip(tp / np.sqrt(tt * pp), -1.0, 1.0)
        # Draws without cells have NaN in tt and stay NaN.
        return np.where(true_is_flat | np.isnan(tt), np.nan, np.where(flat, 0.0, correlation))
