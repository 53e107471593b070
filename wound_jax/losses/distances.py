"""Distances between the cells of two sets, in float32 without its cancellation.

    |x - y|^2 = |x - c|^2 + |y - c|^2 - 2 <x - c, y - c>          for any centre c

The Gram form needs one matrix product and never an array [sets, cells, targets, dims]. Taken about
the origin it subtracts numbers as large as the squared norms; taken about the mean of the target
set it subtracts numbers as large as the result. The product runs at the highest precision, since
the TF32 of accelerators keeps 10 bits.

Largest relative error of a squared distance in float32, against direct differences in float64, for
128 cells of 3,000 log-expression values: 2e-7. Taken about the origin: 3e-6 between measured cells
and 2e-5 among predicted ones, which at first lie close together and far from it.

Cells carry weights, one a cell; a weight of 0 marks padding.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from wound_jax.arrays import CellFeatures, CellMask, PerSet, TargetFeatures, TargetMask

CellWeights = Float[Array, "sets cells"]
TargetWeights = Float[Array, "sets targets"]
CrossMatrix = Float[Array, "sets cells targets"]
SelfMatrix = Float[Array, "sets cells cells"]
# Of either kind, and the weights of its rows and columns.
PairMatrix = Float[Array, "sets rows columns"]
RowWeights = Float[Array, "sets rows"]
ColumnWeights = Float[Array, "sets columns"]

# Distances below this count as this, with gradient 0: the floor of geomloss (1e-8 on the square).
SMALLEST_DISTANCE = 1e-4
# Rounding of a squared distance by the Gram form, at most, in units of eps (|x|^2 + |y|^2); 12 was
# the largest seen, for float32 cells of 5 to 3,000 dimensions.
_ROUNDING = 16


class Measures(NamedTuple):
    """Predicted and target cells with their weights, all of one dtype, float32 or float64.

    Attributes:
        x: predicted cells.
        y: target cells.
        a: weights of `x`, summing to 1 in each set; padding has weight 0. All 0: an empty set.
        b: weights of `y`, likewise.
    """

    x: CellFeatures
    y: TargetFeatures
    a: CellWeights
    b: TargetWeights


def loss_dtype(*arrays: Array) -> jnp.dtype:
    """float64 if any of the arrays is, float32 otherwise: the dtype losses compute in."""
    return jnp.result_type(jnp.float32, *arrays)


def mask_weights(mask: CellMask, dtype: jnp.dtype) -> CellWeights:
    """Equal weights over the valid cells of each set: they sum to 1, or are 0 in an empty set."""
    weights = mask.astype(dtype)
    return weights / jnp.maximum(weights.sum(axis=1, keepdims=True), 1)


def filled_sets(a: CellWeights, b: TargetWeights) -> Bool[Array, "sets"]:
    """Which sets have a valid cell on both sides."""
    return (a > 0).any(axis=1) & (b > 0).any(axis=1)


def fill_empty(a: CellWeights, filled: Bool[Array, "sets"]) -> CellWeights:
    """Weights a solver can run on: equal ones stand in for those of sets that are not filled."""
    return jnp.where(filled[:, None], a, 1 / a.shape[1])


def as_measures(
    predicted: CellFeatures,
    target: TargetFeatures,
    predicted_mask: CellMask,
    target_mask: TargetMask,
) -> Measures:
    """Both sets in the dtype losses compute in, each with its mask as weights."""
    dtype = loss_dtype(predicted, target)
    return Measures(
        predicted.astype(dtype),
        target.astype(dtype),
        mask_weights(predicted_mask, dtype),
        mask_weights(target_mask, dtype),
    )


def squared_distances(
    x: CellFeatures, y: TargetFeatures, a: CellWeights, b: TargetWeights
) -> CrossMatrix:
    """Squared Euclidean distances between the cells of `x` and those of `y`, set by set.

    Args:
        x: cells, float32 or float64.
        y: cells of the other set, same dtype.
        a: weights of `x`; places of weight 0 are replaced by the centre, without a gradient.
        b: weights of `y`, likewise. The centre is the mean of `y` under them.

    Returns:
        Entries >= 0, in the dtype of the inputs; those of padding are arbitrary but finite.
    """
    centre = weighted_mean(y, b)
    return gram_squares(centred(x, a, centre), centred(y, b, centre))


def gram_squares(x: CellFeatures, y: TargetFeatures) -> CrossMatrix:
    """Squared distances by the Gram form, between cells given about one common centre."""
    gram = jnp.einsum("scd,std->sct", x, y, precision=jax.lax.Precision.HIGHEST)
    squares = _squared_norms(x)[:, :, None] + _squared_norms(y)[:, None, :] - 2 * gram
    return jnp.maximum(squares, 0)


def without_rounding(squares: CrossMatrix, x: CellFeatures, y: TargetFeatures) -> CrossMatrix:
    """Squared distances by the Gram form, 0 where they are within its rounding.

    What the form leaves of two cells that coincide is noise; an inverse distance makes it large.

    Args:
        squares: the distances, from `gram_squares(x, y)`.
        x: the cells that they are between.
        y: those of the other set.
    """
    norms = _squared_norms(x)[:, :, None] + _squared_norms(y)[:, None, :]
    return jnp.where(squares < _ROUNDING * jnp.finfo(squares.dtype).eps * norms, 0, squares)


def self_squared_distances(
    x: CellFeatures, a: CellWeights, *, freeze_columns: bool = False
) -> SelfMatrix:
    """Squared Euclidean distances among the cells of `x`, set by set; the diagonal is exactly 0.

    Args:
        x: cells, float32 or float64.
        a: their weights; padding has weight 0.
        freeze_columns: take the gradient with respect to the row's cell only.

    Returns:
        Entries >= 0, in the dtype of `x`.
    """
    columns = jax.lax.stop_gradient(x) if freeze_columns else x
    squares = squared_distances(x, columns, a, a)
    return without_diagonal(squares)


def without_diagonal(squares: SelfMatrix) -> SelfMatrix:
    """A cell is no distance from itself, exactly."""
    return jnp.where(jnp.eye(squares.shape[-1], dtype=bool)[None], 0, squares)


def pair_mean(a: RowWeights, entries: PairMatrix, b: ColumnWeights) -> PerSet:
    """The mean over all pairs of each set, `sum_ij a_i b_j entries_ij`."""
    return jnp.einsum("sr,src,sc->s", a, entries, b, precision=jax.lax.Precision.HIGHEST)


def euclidean(squares: PairMatrix) -> PairMatrix:
    """Distances from squared distances, not below `SMALLEST_DISTANCE` and with finite gradients."""
    floor = SMALLEST_DISTANCE**2
    # Written so that NaN stays NaN: a diverged prediction must not look like a small distance.
    return jnp.sqrt(jnp.where(squares < floor, floor, squares))


def weighted_mean(y: TargetFeatures, b: TargetWeights) -> Float[Array, "sets 1 dims"]:
    """The weighted mean of each set; a constant, since no distance depends on the centre."""
    total = jnp.maximum(b.sum(axis=1), jnp.finfo(b.dtype).tiny)[:, None, None]
    valid = jnp.where(b[..., None] > 0, y, 0)
    return jax.lax.stop_gradient((valid * b[..., None]).sum(axis=1, keepdims=True) / total)


def centred(x: CellFeatures, a: CellWeights, centre: Float[Array, "sets 1 dims"]) -> CellFeatures:
    """Cells about a centre; places of weight 0 lie at the centre, without a gradient."""
    return jnp.where(a[..., None] > 0, x - centre, 0)


def _squared_norms(x: CellFeatures) -> CellWeights:
    return jnp.einsum("scd,scd->sc", x, x, precision=jax.lax.Precision.HIGHEST)
