"""Distances between two sets of cells, compiled for a few shapes.

Owns the pairwise work behind the metrics:

    E^2(X, Y) = 2 E|X - Y| - E|X - X'| - E|Y - Y'|

with Euclidean |.|, the energy distance of Szekely and Rizzo (2013, J. Stat. Plan. Inference 143,
eq. 2.1). Sets are padded to powers of two and masked, so that strata of all sizes share a handful
of compiled programs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

# Rows computed at once: bounds the [rows, cells, dims] differences while keeping a GPU busy.
_ROW_BLOCK = 32
_SMALLEST_SET = 64


def energy_distance(
    x: Float[np.ndarray, "cells dims"], y: Float[np.ndarray, "targets dims"]
) -> float:
    """Unbiased squared energy distance of two sets of cells.

    The expectations are means over pairs; those within a set leave out each cell's pair with
    itself (U-statistic), so the expectation is 0 for two samples of one distribution at any size,
    and a single value can be slightly negative.

    Args:
        x: [cells, dims].
        y: [targets, dims].

    Returns:
        2 E|x - y| - E|x - x'| - E|y - y'|, in the unit of the coordinates (the distance is
        Euclidean, not squared). NaN where a set has fewer than two cells.
    """
    n, m = len(x), len(y)
    if n < 2 or m < 2:
        return float("nan")
    # Far from the origin float32 coordinates lose the digits that differences are made of.
    center = np.concatenate([x, y]).mean(axis=0, dtype=np.float64)
    x, y = (x - center).astype(np.float32), (y - center).astype(np.float32)
    between = _sum_of_distances(x, y) / (n * m)
    within = _sum_of_distances(x, x) / (n * (n - 1)) + _sum_of_distances(y, y) / (m * (m - 1))
    return 2.0 * between - within


def nearest_cosine_distance(
    x: Float[np.ndarray, "cells dims"], y: Float[np.ndarray, "targets dims"]
) -> float:
    """Mean over the cells of x of the cosine distance to the nearest cell of y.

    Args:
        x: [cells, dims].
        y: [targets, dims].

    Returns:
        mean_i min_j (1 - cos(x_i, y_j)), between 0 and 2; a cell of zeros is at distance 1 from
        all others. NaN where a set is empty.
    """
    if not len(x) or not len(y):
        return float("nan")
    padded, mask = _padded(y)
    nearest = _nearest_cosine(_padded(x)[0], padded, mask)
    return float(np.asarray(nearest, dtype=np.float64)[: len(x)].mean())


def _padded(cells: Float[np.ndarray, "cells dims"]) -> tuple[np.ndarray, np.ndarray]:
    """The cells as float32, padded with zeros to a power of two, and the mask of real ones."""
    n = len(cells)
    size = max(_SMALLEST_SET, 1 << (n - 1).bit_length())
    filled = np.zeros((size, cells.shape[1]), dtype=np.float32)
    filled[:n] = cells
    return filled, np.arange(size) < n


def _sum_of_distances(
    x: Float[np.ndarray, "cells dims"], y: Float[np.ndarray, "targets dims"]
) -> float:
    """Sum of |x_i - y_j| over all pairs; the rows are added up in float64."""
    padded, mask = _padded(y)
    rows = _row_sums(_padded(x)[0], padded, mask)
    return float(np.asarray(rows, dtype=np.float64)[: len(x)].sum())


@jax.jit
def _row_sums(
    x: Float[Array, "cells dims"], y: Float[Array, "targets dims"], y_mask: Bool[Array, " targets"]
) -> Float[Array, " cells"]:
    """Sum over j of |x_i - y_j|, for each i.

    Differences are taken before squaring: |x|^2 + |y|^2 - 2xy leaves a distance of 1e-3 |x|
    between a cell and itself in float32, and collapsed predictions are all such pairs.
    """

    def row(point: Float[Array, " dims"]) -> Float[Array, ""]:
        distances = jnp.sqrt(jnp.square(y - point).sum(axis=-1))
        return jnp.where(y_mask, distances, 0.0).sum()

    return jax.lax.map(row, x, batch_size=_ROW_BLOCK)


@jax.jit
def _nearest_cosine(
    x: Float[Array, "cells dims"], y: Float[Array, "targets dims"], y_mask: Bool[Array, " targets"]
) -> Float[Array, " cells"]:
    """Cosine distance of each x to its nearest y."""
    x_unit, x_zero = _unit_rows(x)
    y_unit, y_zero = _unit_rows(y)
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    nearest = jnp.where(y_mask, product(x_unit, y_unit.T), -jnp.inf).argmax(axis=-1)
    # 1 - cos = |u - v|^2 / 2 for unit vectors, without the cancellation of 1 - cos near 1.
    distance = 0.5 * jnp.square(x_unit - y_unit[nearest]).sum(axis=-1)
    return jnp.where(x_zero | y_zero[nearest], 1.0, distance)


def _unit_rows(
    x: Float[Array, "cells dims"],
) -> tuple[Float[Array, "cells dims"], Bool[Array, " cells"]]:
    """Rows scaled to length one, and which rows are zero (those stay zero)."""
    norms = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.where(norms == 0, 1.0, norms), norms[:, 0] == 0
