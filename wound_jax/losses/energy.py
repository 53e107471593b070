"""The energy distance between two sets of cells (Szekely & Rizzo 2013).

    E(x, y) = mean d(x, y) - 1/2 mean d(x, x) - 1/2 mean d(y, y),      d Euclidean

The means run over all pairs, the diagonal included, each cell with its weight. The value equals
that of geomloss `SamplesLoss("energy")`; it is 0 exactly where the two sets agree.

Its gradient is written out, because the derivative of each term has the form

    dE/dx_i = sum_j w_ij (x_i - z_j) = x_i sum_j w_ij - sum_j w_ij z_j,      w_ij = a_i c_j / d_ij

with (z, c) the other set, or the same set with weight -c: one matrix product a term, where the
derivative of the Gram form takes two for distances within a set.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from wound_jax.arrays import CellFeatures, CellMask, PerSet, TargetFeatures, TargetMask
from wound_jax.losses.distances import (
    SMALLEST_DISTANCE,
    CellWeights,
    CrossMatrix,
    Measures,
    PairMatrix,
    TargetWeights,
    as_measures,
    centred,
    euclidean,
    filled_sets,
    gram_squares,
    pair_mean,
    weighted_mean,
    without_diagonal,
    without_rounding,
)
from wound_jax.losses.registry import SetLossValue, register_loss
from wound_jax.losses.settings import EnergySettings


@register_loss("energy")
class Energy(EnergySettings):
    """The energy distance, a set loss without options."""

    def __call__(
        self,
        predicted: CellFeatures,
        target: TargetFeatures,
        predicted_mask: CellMask,
        target_mask: TargetMask,
    ) -> SetLossValue:
        """The energy distance of each set, in the unit of the features; no diagnostics."""
        sets = as_measures(predicted, target, predicted_mask, target_mask)
        return SetLossValue(energy_distance(sets))


@jax.custom_vjp
def energy_distance(sets: Measures) -> PerSet:
    """The energy distance of each set between weighted cells.

    Returns:
        Values >= 0 up to rounding; 0 where either side of a set is empty.
    """
    return _forward(sets)[0]


class _Pairs(NamedTuple):
    """The cells of one term, about one centre, and what their distances give.

    Attributes:
        x: the cells of the rows.
        y: the cells of the columns.
        distances: between them, float32 or float64.
        slopes: 1 / distance; 0 where the distance counts as the smallest one.
    """

    x: Float[Array, "sets rows dims"]
    y: Float[Array, "sets columns dims"]
    distances: PairMatrix
    slopes: PairMatrix


class _Kept(NamedTuple):
    """What the gradient needs: weights, terms, and which sets have cells on both sides."""

    a: CellWeights
    b: TargetWeights
    across: _Pairs
    within_x: _Pairs
    within_y: _Pairs
    filled: Bool[Array, "sets"]


def _forward(sets: Measures) -> tuple[PerSet, _Kept]:
    x, y, a, b = sets
    centre = weighted_mean(y, b)
    from_y, y = centred(x, a, centre), centred(y, b, centre)
    # Predictions that lie close together and far from `y` have digits about their own mean only.
    x = centred(x, a, weighted_mean(x, a))
    across = _pairs(from_y, y, _squares(from_y, y))
    within_x = _pairs(x, x, without_diagonal(_squares(x, x)))
    within_y = _pairs(y, y, without_diagonal(_squares(y, y)))
    within = pair_mean(a, within_x.distances, a) + pair_mean(b, within_y.distances, b)
    filled = filled_sets(a, b)
    value = jnp.where(filled, pair_mean(a, across.distances, b) - within / 2, 0)
    return value, _Kept(a, b, across, within_x, within_y, filled)


def _backward(kept: _Kept, cotangent: PerSet) -> tuple[Measures]:
    a, b, across, within_x, within_y, filled = kept
    g = jnp.where(filled, cotangent, 0)[:, None]
    towards_y = (g * a)[:, :, None] * b[:, None, :] * across.slopes
    towards_x = jnp.swapaxes(towards_y, 1, 2)
    among_x = -(g * a)[:, :, None] * a[:, None, :] * within_x.slopes
    among_y = -(g * b)[:, :, None] * b[:, None, :] * within_y.slopes
    to_y, to_x = across.distances, jnp.swapaxes(across.distances, 1, 2)
    gradient = Measures(
        x=_pull(across.x, towards_y, across.y) + _pull(within_x.x, among_x, within_x.y),
        y=_pull(across.y, towards_x, across.x) + _pull(within_y.x, among_y, within_y.y),
        a=g * (_means(to_y, b) - _means(within_x.distances, a)),
        b=g * (_means(to_x, a) - _means(within_y.distances, b)),
    )
    return (gradient,)


energy_distance.defvjp(_forward, _backward)


def _squares(x: CellFeatures, y: TargetFeatures) -> CrossMatrix:
    return without_rounding(gram_squares(x, y), x, y)


def _pairs(x: CellFeatures, y: TargetFeatures, squares: CrossMatrix) -> _Pairs:
    distances = euclidean(squares)
    slopes = jnp.where(squares < SMALLEST_DISTANCE**2, 0, 1 / distances)
    return _Pairs(x, y, distances, slopes)


def _pull(x: CellFeatures, weights: CrossMatrix, y: TargetFeatures) -> CellFeatures:
    """`sum_j w_ij (x_i - y_j)` for each cell of `x`."""
    product = jnp.einsum("sct,std->scd", weights, y, precision=jax.lax.Precision.HIGHEST)
    return weights.sum(axis=2, keepdims=True) * x - product


def _means(distances: CrossMatrix, weights: TargetWeights) -> CellWeights:
    return jnp.einsum("sct,st->sc", distances, weights, precision=jax.lax.Precision.HIGHEST)
