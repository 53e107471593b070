"""Mean distances between sets of cells, many sets a call, compiled for a few shapes.

Owns the pairwise work behind the metrics: means over pairs of cells of the distance |x - y| and of
the Gaussian kernel k(x, y) = exp(-|x - y|^2 / (2 w^2)), of which

    E^2(X, Y)   = 2 E|X - Y| - E|X - X'| - E|Y - Y'|            (energy distance)
    MMD^2(X, Y) = E k(X, X') + E k(Y, Y') - 2 E k(X, Y)         (maximum mean discrepancy)

are made (Szekely and Rizzo 2013, J. Stat. Plan. Inference 143, eq. 2.1; Gretton et al. 2012, J.
Mach. Learn. Res. 13, eq. 3). Sets are padded to powers of two, masked and stacked eight to a call,
so that strata of all sizes and numbers share a handful of compiled programs.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float64

# Sets differ in their numbers of cells.
Cells = Float[np.ndarray, "_ dims"]
Scalars = Float[np.ndarray, " sets"]
# Of one padded couple of sets, their masks and a scalar.
OfCouple = Callable[..., Float[Array, "..."]]

SETS_PER_CALL = 8
_SMALLEST_SET = 64
# Rounding of a product of thousands of terms, in units of the dtype.
_RESOLUTION = 16


class PairMeans(NamedTuple):
    """Means over the pairs of cells of several couples of sets; NaN where there is no pair.

    Attributes:
        distance: float64 [sets], of |x - y|, Euclidean.
        kernel: float64 [sets], of exp(-|x - y|^2 / (2 width^2)).
    """

    distance: Scalars
    kernel: Scalars


def pair_means(xs: Sequence[Cells], ys: Sequence[Cells], widths: Sequence[float]) -> PairMeans:
    """Means over all pairs of a cell of one set and a cell of the other, in float64.

    Args:
        xs: sets of cells, [cells, dims] each.
        ys: the set that each is compared with, [targets, dims] each.
        widths: the width of each couple's kernel, in the unit of the coordinates.
    """
    counts = [len(x) * len(y) for x, y in zip(xs, ys, strict=True)]
    return _pair_means(_KERNEL_BETWEEN, xs, ys, widths, counts)


def self_pair_means(xs: Sequence[Cells], widths: Sequence[float]) -> PairMeans:
    """Means over the pairs of different cells of each set, in float64.

    Without a cell's pair with itself they are U-statistics: unbiased at any number of cells.

    Args:
        xs: sets of cells, [cells, dims] each.
        widths: the width of each set's kernel, in the unit of the coordinates.
    """
    counts = [len(x) * (len(x) - 1) for x in xs]
    return _pair_means(_KERNEL_WITHIN, xs, xs, widths, counts)


def mean_distances(xs: Sequence[Cells], ys: Sequence[Cells]) -> Scalars:
    """Mean Euclidean distance over all pairs of each couple, [sets], for thousands of dimensions.

    A set given as both sides (the same object) has distance 0 of each cell to itself, and these
    pairs count: the V-statistic, sum_ij |x_i - x_j| / n^2. The products of cells are taken in
    float32, which is their cost, and all else in float64.
    """
    means = np.full(len(xs), np.nan)
    same = [x is y for x, y in zip(xs, ys, strict=True)]
    for of_couple, within in ((_DISTANCE_WITHIN, True), (_DISTANCE_BETWEEN, False)):
        chosen = [i for i in range(len(xs)) if same[i] == within]
        couples = [xs[i] for i in chosen], [ys[i] for i in chosen]
        rows = run_padded(of_couple, *couples, np.zeros(len(chosen)), x64=True)
        for i, row in zip(chosen, rows, strict=True):
            means[i] = _mean(row.sum(), len(xs[i]) * len(ys[i]))
    return means


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
    between = pair_means([x], [y], [1.0]).distance
    within = [self_pair_means([cells], [1.0]).distance for cells in (x, y)]
    return float((2.0 * between - within[0] - within[1])[0])


def nearest_cosine_distances(xs: Sequence[Cells], ys: Sequence[Cells]) -> Scalars:
    """Mean over the cells of x of the cosine distance to the nearest cell of y, of each couple.

    Args:
        xs: sets of cells, [cells, dims] each.
        ys: the set that each is compared with, [targets, dims] each.

    Returns:
        float64 [sets], mean_i min_j (1 - cos(x_i, y_j)), between 0 and 2; a cell of zeros is at
        distance 1 from all others. NaN where a set is empty.
    """
    rows = run_padded(_nearest_cosine, xs, ys, np.zeros(len(xs)))
    counts = [len(x) * bool(len(y)) for x, y in zip(xs, ys, strict=True)]
    sums = [row.sum(dtype=np.float64) for row in rows]
    return np.array([_mean(total, count) for total, count in zip(sums, counts, strict=True)])


def run_padded(
    of_couple: OfCouple,
    xs: Sequence[Cells],
    ys: Sequence[Cells],
    scalars: Scalars,
    *,
    dtype: type[np.floating] = np.float32,
    x64: bool = False,
) -> list[np.ndarray]:
    """Runs a function of a couple of sets on many couples, `SETS_PER_CALL` a call.

    Args:
        of_couple: (x [cells, dims], y [targets, dims], mask of x, mask of y, scalar) -> array;
            compiled once for each couple of padded sizes. Compiled programs are kept by identity,
            so it has to be a constant of a module, not a `partial` made on the spot.
        xs: sets of cells.
        ys: the other side of each.
        scalars: a number for each couple.
        dtype: of the cells and scalars; float64 only with `x64`.
        x64: whether the function computes in float64, where it asks for it.

    Returns:
        The array of each couple.
    """
    sizes = [(_padded_size(len(x)), _padded_size(len(y))) for x, y in zip(xs, ys, strict=True)]
    found: dict[int, np.ndarray] = {}
    for size in dict.fromkeys(sizes):
        members = [i for i, other in enumerate(sizes) if other == size]
        for start in range(0, len(members), SETS_PER_CALL):
            chunk = members[start : start + SETS_PER_CALL]
            x, x_mask = _stacked([xs[i] for i in chunk], size[0], dtype)
            y, y_mask = _stacked([ys[i] for i in chunk], size[1], dtype)
            scalar = np.ones(SETS_PER_CALL, dtype)
            scalar[: len(chunk)] = scalars[chunk]
            with jax.enable_x64(x64):
                rows = np.asarray(_map_couples(of_couple, x, y, x_mask, y_mask, scalar))
            found.update(zip(chunk, rows, strict=False))
    return [found[i] for i in range(len(xs))]


@functools.partial(jax.jit, static_argnums=0)
def _map_couples(
    of_couple: OfCouple,
    x: Float[Array, "sets cells dims"],
    y: Float[Array, "sets targets dims"],
    x_mask: Bool[Array, "sets cells"],
    y_mask: Bool[Array, "sets targets"],
    scalar: Float[Array, " sets"],
) -> Float[Array, "sets ..."]:
    """One couple after the other; those that only fill the call up cost nothing."""
    couples = (x, y, x_mask, y_mask, scalar)
    shape = jax.eval_shape(of_couple, *(array[0] for array in couples))

    def run(couple: tuple[Array, ...]) -> Array:
        empty = jnp.zeros(shape.shape, shape.dtype)
        return jax.lax.cond(couple[2].any(), lambda: of_couple(*couple), lambda: empty)

    return jax.lax.map(run, couples)


def _padded_size(n: int) -> int:
    return max(_SMALLEST_SET, 1 << (n - 1).bit_length())


def _stacked(
    sets: Sequence[Cells], size: int, dtype: type[np.floating]
) -> tuple[Float[np.ndarray, "sets cells dims"], Bool[np.ndarray, "sets cells"]]:
    """The sets padded to one size, with empty ones up to `SETS_PER_CALL`, and their masks."""
    stack = np.zeros((SETS_PER_CALL, size, sets[0].shape[1]), dtype)
    for place, cells in zip(stack, sets, strict=False):
        place[: len(cells)] = cells
    counts = np.array([len(cells) for cells in sets] + [0] * (SETS_PER_CALL - len(sets)))
    return stack, np.arange(size) < counts[:, None]


def _pair_means(
    of_couple: OfCouple,
    xs: Sequence[Cells],
    ys: Sequence[Cells],
    widths: Sequence[float],
    counts: Sequence[int],
) -> PairMeans:
    rows = run_padded(of_couple, xs, ys, np.asarray(widths, float), dtype=np.float64, x64=True)
    sums = np.array([row.sum(axis=-1) for row in rows]).reshape(len(xs), 2)
    means = [[_mean(s, n) for s in both] for both, n in zip(sums, counts, strict=True)]
    return PairMeans(*np.array(means).reshape(len(xs), 2).T)


def _mean(total: float, count: int) -> float:
    return total / count if count else float("nan")


def _squares(
    x: Float[Array, "cells dims"],
    y: Float[Array, "targets dims"],
    y_mask: Bool[Array, " targets"],
) -> Float64[Array, "cells targets"]:
    """|x - y|^2 of all pairs, about the mean of y, where the squared norms are smallest.

    The product is taken in the dtype of the cells, all else in float64. A mean of few digits keeps
    the difference from it exact: rounding is the same in all zeros of a gene and does not average
    out. What the product cannot tell from 0 is 0: cells that coincide are at no distance.
    """
    total = jnp.where(y_mask[:, None], y, 0).sum(axis=0, dtype=jnp.float64)
    centre = (total / jnp.maximum(y_mask.sum(), 1)).astype(jnp.bfloat16).astype(x.dtype)
    x, y = x - centre[None], y - centre[None]
    product = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST).astype(jnp.float64)
    x_norms, y_norms = (jnp.square(z.astype(jnp.float64)).sum(axis=-1) for z in (x, y))
    norms = x_norms[:, None] + y_norms[None]
    squares = norms - 2 * product
    return jnp.where(squares > _RESOLUTION * jnp.finfo(x.dtype).eps * norms, squares, 0)


def _pairs(
    x_mask: Bool[Array, " cells"], y_mask: Bool[Array, " targets"], within: bool
) -> Bool[Array, "cells targets"]:
    """Pairs of real cells; within a set without those of a cell with itself."""
    pairs = x_mask[:, None] & y_mask[None]
    return pairs & ~jnp.eye(len(x_mask), dtype=bool) if within else pairs


def _distance_rows(
    x: Float[Array, "cells dims"],
    y: Float[Array, "targets dims"],
    x_mask: Bool[Array, " cells"],
    y_mask: Bool[Array, " targets"],
    _: Float[Array, ""],
    *,
    within: bool,
) -> Float[Array, " cells"]:
    """Sum of the distances of each cell of x."""
    distances = jnp.sqrt(_squares(x, y, y_mask))
    return jnp.where(_pairs(x_mask, y_mask, within), distances, 0).sum(axis=-1)


def _kernel_rows(
    x: Float[Array, "cells dims"],
    y: Float[Array, "targets dims"],
    x_mask: Bool[Array, " cells"],
    y_mask: Bool[Array, " targets"],
    width: Float[Array, ""],
    *,
    within: bool,
) -> Float[Array, "2 cells"]:
    """Sums of the distances and of the kernel of each cell of x."""
    squares, pairs = _squares(x, y, y_mask), _pairs(x_mask, y_mask, within)
    kernel = jnp.exp(-squares / (2 * jnp.square(width)))
    return jnp.stack([jnp.where(pairs, v, 0).sum(axis=-1) for v in (jnp.sqrt(squares), kernel)])


_KERNEL_BETWEEN = functools.partial(_kernel_rows, within=False)
_KERNEL_WITHIN = functools.partial(_kernel_rows, within=True)
_DISTANCE_BETWEEN = functools.partial(_distance_rows, within=False)
_DISTANCE_WITHIN = functools.partial(_distance_rows, within=True)


def _nearest_cosine(
    x: Float[Array, "cells dims"],
    y: Float[Array, "targets dims"],
    x_mask: Bool[Array, " cells"],
    y_mask: Bool[Array, " targets"],
    _: Float[Array, ""],
) -> Float[Array, " cells"]:
    """Cosine distance of each x to its nearest y."""
    x_unit, x_zero = _unit_rows(x)
    y_unit, y_zero = _unit_rows(y)
    product = jnp.matmul(x_unit, y_unit.T, precision=jax.lax.Precision.HIGHEST)
    nearest = jnp.where(y_mask[None], product, -jnp.inf).argmax(axis=-1)
    # 1 - cos = |u - v|^2 / 2 for unit vectors, without the cancellation of 1 - cos near 1.
    distance = 0.5 * jnp.square(x_unit - y_unit[nearest]).sum(axis=-1)
    return jnp.where(x_mask, jnp.where(x_zero | y_zero[nearest], 1.0, distance), 0.0)


def _unit_rows(
    x: Float[Array, "cells dims"],
) -> tuple[Float[Array, "cells dims"], Bool[Array, " cells"]]:
    """Rows scaled to length one, and which rows are zero (those stay zero)."""
    norms = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.where(norms == 0, 1.0, norms), norms[:, 0] == 0
