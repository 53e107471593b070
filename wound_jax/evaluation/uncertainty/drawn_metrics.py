"""Headline metrics for all draws of a bootstrap at once.

Metrics of mean profiles: means of weighted cells are linear in the means of the holders of cells,
so that

    true(w) = sum_h share_h(w) T_h - sum_h share_h(w) C_h        treated, control means
    predicted(w) = sum_h share_h(w) (P_h - C_h)                  predictions weigh as their controls

and every inner product over genes that a correlation or a squared error is made of is a quadratic
form of the shares in one small Gram matrix: no profile of a draw is ever written out.

The ratio of energy distances: an energy distance of weighted cells is a quadratic form of the
weights in sums over pairs of holders, which are taken once. With B_hk the sum of |x_i - y_j| over
the cells i of h and j of k, and n_h cells of h,

    E|X - Y|  = sum_hk w_h v_k B_hk / (sum_h w_h n_h  sum_k v_k m_k)
    E|X - X'| = sum_hk w_h w_k B_hk / ((sum_h w_h n_h)^2 - sum_h w_h^2 n_h)

A holder drawn twice brings every cell twice. Pairs of a cell with itself, copies included, add
nothing to B and are taken out of the second denominator, as the U-statistic does for single cells.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from wound_jax.data.strata import Stratum
from wound_jax.evaluation.context import ScoreContext
from wound_jax.evaluation.metrics import RealStratum
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
        deltas = self._control.holder_means(predicted) - self._control_means
        tt, tp, pp = self._inner(self._real, deltas)
        unchanged = pp <= _ZERO_DELTA**2 * self._control_size
        return {
            "pearson_delta": self._correlation(self._real, deltas, unchanged),
            "pearson_delta_top100": self._correlation(
                self._real[:, self._top], deltas[:, self._top], unchanged
            ),
            "mse": np.maximum(pp - 2 * tp + tt, 0.0) / predicted.shape[1],
        }

    def _inner(self, real: np.ndarray, deltas: np.ndarray) -> tuple[np.ndarray, ...]:
        """|true|^2, true . predicted and |predicted|^2 of every row."""
        true, made = self._true, self._control.shares
        return (
            quadratic_forms(real @ real.T, true, true),
            quadratic_forms(real @ deltas.T, true, made),
            quadratic_forms(deltas @ deltas.T, made, made),
        )

    def _correlation(
        self, real: np.ndarray, deltas: np.ndarray, unchanged: np.ndarray
    ) -> Float[np.ndarray, " rows"]:
        """Pearson correlation over genes; 0 where the prediction, NaN where the truth is flat."""
        real, deltas = (rows - rows.mean(axis=1, keepdims=True) for rows in (real, deltas))
        tt, tp, pp = self._inner(real, deltas)
        true_is_flat = tt <= _FLAT * np.square(real).sum(axis=1).max()
        flat = unchanged | (pp <= _FLAT * np.square(deltas).sum(axis=1).max())
        with np.errstate(invalid="ignore", divide="ignore"):
            correlation = np.clip(tp / np.sqrt(tt * pp), -1.0, 1.0)
        # Draws without cells have NaN in tt and stay NaN.
        return np.where(true_is_flat | np.isnan(tt), np.nan, np.where(flat, 0.0, correlation))


# Rows computed at once: bounds the [rows, cells, dims] differences while keeping a GPU busy.
_ROW_BLOCK = 32


# Sets and holders are padded to powers of two from here on, for a handful of compiled programs.
_SMALLEST_SET = 64


_FEWEST_HOLDERS = 8


class EnergyRatio:
    """The energy distances of one stratum, on the cells that the metric is computed from.

    Args:
        stratum: the real cells.
        control: weights of its control cells.
        treated: weights of its treated cells.
        context: the components, and the sample of cells.
    """

    def __init__(
        self, stratum: Stratum, control: ArmWeights, treated: ArmWeights, context: ScoreContext
    ):
        self._context = context
        self._cells, treated_cells = sampled_cells(stratum, context)
        self._control = control.take(self._cells)
        self._treated = treated.take(treated_cells)
        # Far from the origin float32 coordinates lose the digits that differences are made of.
        self._treated_points = context.project(stratum.treated[treated_cells])
        self._center = self._treated_points.mean(axis=0)
        self._treated_points -= self._center
        self._control_cells = stratum.control

    def score(self, predicted: Float[np.ndarray, "cells genes"]) -> Float[np.ndarray, " rows"]:
        """`e_distance_ratio` of every row of weights.

        Args:
            predicted: [n_control, genes], row i made from control cell i.

        Returns:
            float64 [rows]; NaN where an arm has fewer than two different cells, or the control
            cells are no further from the treated ones than chance.
        """
        remaining = self._distance_to_treated(predicted)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self._effect > 0, remaining / self._effect, np.nan)

    @cached_property
    def _effect(self) -> Float[np.ndarray, " rows"]:
        """E^2(C, T)."""
        return self._distance_to_treated(self._control_cells)

    @cached_property
    def _treated_spread(self) -> Float[np.ndarray, " rows"]:
        """E|T - T'|."""
        return _mean_within(self._treated_points, self._treated)

    def _distance_to_treated(self, cells: np.ndarray) -> Float[np.ndarray, " rows"]:
        """E^2 between cells that weigh as the control cells and the treated ones."""
        points = self._context.project(cells[self._cells]) - self._center
        across = _mean_between(points, self._control, self._treated_points, self._treated)
        return 2 * across - _mean_within(points, self._control) - self._treated_spread


def sampled_cells(stratum: Stratum, context: ScoreContext) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the control and of the treated cells that the distances are computed from."""
    # The metrics choose them: a stratum whose only gene is the position says which they took.
    control, treated = (
        np.arange(n, dtype=np.float64)[:, None] for n in (stratum.n_control, stratum.n_treated)
    )
    positions = replace(stratum, control=control, treated=treated)
    chosen = RealStratum(positions, context).samples(context.max_cells)
    return chosen[0][:, 0].astype(int), chosen[1][:, 0].astype(int)


def _mean_between(
    x: np.ndarray, of_x: ArmWeights, y: np.ndarray, of_y: ArmWeights
) -> Float[np.ndarray, " rows"]:
    """E|X - Y| of every row of weights; NaN where a side has no cell."""
    pairs = (of_x.weights @ of_x.counts) * (of_y.weights @ of_y.counts)
    total = quadratic_forms(pair_sums(x, of_x, y, of_y), of_x.weights, of_y.weights)
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / pairs


def _mean_within(x: np.ndarray, of_x: ArmWeights) -> Float[np.ndarray, " rows"]:
    """E|X - X'| of every row of weights; NaN where there are no two different cells."""
    pairs = (of_x.weights @ of_x.counts) ** 2 - of_x.weights**2 @ of_x.counts
    total = quadratic_forms(pair_sums(x, of_x, x, of_x), of_x.weights, of_x.weights)
    # One cell alone, whatever its weight, leaves a difference of rounding.
    defined = pairs > 1e-9 * (of_x.weights**2 @ of_x.counts)
    return np.where(defined, total, np.nan) / np.where(defined, pairs, 1.0)


def pair_sums(
    x: Float[np.ndarray, "cells dims"],
    of_x: ArmWeights,
    y: Float[np.ndarray, "targets dims"],
    of_y: ArmWeights,
) -> Float[np.ndarray, "holders others"]:
    """Sum of |x_i - y_j| over the cells of every holder of x and of y.

    Args:
        x: [cells, dims], centred near the origin.
        of_x: the holder of each cell of x.
        y: [targets, dims], about the same origin.
        of_y: the holder of each cell of y.

    Returns:
        float64 [holders of x, holders of y]; distances are float32, and so is their sum over the
        cells of one holder of y.
    """
    members = np.zeros((_padded_size(len(y), _SMALLEST_SET), _padded_size(of_y.n, _FEWEST_HOLDERS)))
    members[np.arange(len(y)), of_y.holder] = 1.0
    sums = _sums_by_holder(_padded(x), _padded(y), members.astype(np.float32))
    rows = np.asarray(sums, dtype=np.float64)[: len(x), : of_y.n]
    return np.eye(of_x.n)[of_x.holder].T @ rows


def _padded_size(n: int, smallest: int) -> int:
    return max(smallest, 1 << (n - 1).bit_length())


def _padded(cells: np.ndarray) -> Float[np.ndarray, "padded dims"]:
    """The cells as float32, padded with zeros."""
    filled = np.zeros((_padded_size(len(cells), _SMALLEST_SET), cells.shape[1]), dtype=np.float32)
    filled[: len(cells)] = cells
    return filled


@jax.jit
def _sums_by_holder(
    x: Float[Array, "cells dims"],
    y: Float[Array, "targets dims"],
    members: Float[Array, "targets holders"],
) -> Float[Array, "cells holders"]:
    """Sum of |x_i - y_j| over the cells j of each holder, for each i; padding has no holder.

    Differences are taken before squaring: |x|^2 + |y|^2 - 2xy leaves a distance of 1e-3 |x|
    between a cell and itself in float32.
    """

    def row(point: Float[Array, " dims"]) -> Float[Array, " holders"]:
        distances = jnp.sqrt(jnp.square(y - point[None]).sum(axis=-1))
        return jnp.matmul(distances, members, precision=jax.lax.Precision.HIGHEST)

    return jax.lax.map(row, x, batch_size=_ROW_BLOCK)
