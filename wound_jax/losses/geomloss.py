"""The Sinkhorn divergence by the annealing of geomloss (Feydy 2020, PhD thesis, chapter 3).

    f <- 1/2 f + 1/2 softmin_e [C - g],   g <- 1/2 g + 1/2 softmin_e [C' - f],   C = |x - y|^2 / 2

at temperatures e that fall from diameter^2 to blur^2 by scaling^2 a step, one update each; then one
full update, and S = <a, f_xy - f_xx> + <b, g_xy - g_yy>. The number of steps follows from diameter,
blur and scaling alone, so a small blur is not iterated to convergence: with blur 0.05 and cells a
few units apart the gradient is a third to a half off the converged one. As scaling nears 1 the two
agree. Published models were trained with it, hence this file; for training anew prefer the
converged divergence (`wound_jax.losses.sinkhorn`).

The diameter is that of the box around all valid cells of the whole batch: the loss of a set depends
on the sets beside it. The gradient is that of the last update at fixed potentials, with respect to
the predicted cells; the target is a constant.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from wound_jax.arrays import Scalar
from wound_jax.losses.distances import (
    CellWeights,
    ColumnWeights,
    CrossMatrix,
    Measures,
    PairMatrix,
    RowWeights,
    TargetWeights,
    fill_empty,
    filled_sets,
    self_squared_distances,
    squared_distances,
)
from wound_jax.losses.registry import SetLossValue


class Costs(NamedTuple):
    """Half squared distances, from the cells of the rows to those of the columns."""

    x_to_y: CrossMatrix
    x_to_x: Float[Array, "sets cells cells"]
    y_to_y: Float[Array, "sets targets targets"]


class Potentials(NamedTuple):
    """The dual potentials of a divergence, in the unit of the cost."""

    x_to_y: Float[Array, "sets cells"]
    y_to_x: Float[Array, "sets targets"]
    x_to_x: Float[Array, "sets cells"]
    y_to_y: Float[Array, "sets targets"]


class Annealing(NamedTuple):
    """The temperatures: diameter^2, then geometrically towards blur^2, then blur^2."""

    diameter: Scalar
    blur: Scalar
    scaling: float

    def steps(self) -> Int[Array, ""]:
        """How many temperatures there are."""
        between = jnp.log(self.diameter / self.blur) / -math.log(self.scaling)
        return jnp.maximum(jnp.ceil(between), 0).astype(jnp.int32) + 2

    def temperature(self, step: Int[Array, ""]) -> Scalar:
        """The temperature of a step; the first two are equal, as in geomloss."""
        annealed = self.diameter * self.scaling ** jnp.maximum(step - 1, 0)
        return jnp.where(step >= self.steps() - 1, self.blur, annealed) ** 2


def geomloss_parity(
    sets: Measures, *, blur: float, scaling: float, diameter: float | None = None
) -> SetLossValue:
    """What geomloss 0.3 `SamplesLoss("sinkhorn", p=2, blur, scaling, diameter)` returns.

    Args:
        sets: the weighted cells.
        blur: the last temperature is its square; in the unit of the features.
        scaling: factor between successive blurs, in (0, 1).
        diameter: the first temperature is its square; None takes the box around the batch.

    Returns:
        The divergence of each set, 0 where it is empty, and the diagnostic `iterations`.
    """
    filled = filled_sets(sets.a, sets.b)
    a, b = fill_empty(sets.a, filled), fill_empty(sets.b, filled)
    extent = _box_diagonal(sets) if diameter is None else jnp.asarray(diameter, sets.x.dtype)
    # A box without extent, or no box at all: the annealing starts where it ends.
    extent = jnp.where(jnp.isfinite(extent) & (extent > 0), extent, blur)
    annealing = Annealing(extent, jnp.asarray(blur, extent.dtype), scaling)

    costs = _costs(sets)
    frozen = _anneal(jax.lax.stop_gradient(costs), a, b, annealing)
    last = _update(costs, frozen, a, b, annealing.blur**2)
    value = jnp.sum(a * (last.x_to_y - last.x_to_x), axis=1)
    value += jnp.sum(b * (last.y_to_x - last.y_to_y), axis=1)
    iterations = jnp.where(filled, annealing.steps(), 0).astype(value.dtype)
    return SetLossValue(jnp.where(filled, value, 0), {"iterations": iterations})


def _costs(sets: Measures) -> Costs:
    """The costs across and within; a gradient passes through the predicted cells of the rows."""
    x, y, a, b = sets
    y = jax.lax.stop_gradient(y)
    return Costs(
        x_to_y=squared_distances(x, y, a, b) / 2,
        x_to_x=self_squared_distances(x, a, freeze_columns=True) / 2,
        y_to_y=self_squared_distances(y, b) / 2,
    )


def _anneal(costs: Costs, a: CellWeights, b: TargetWeights, annealing: Annealing) -> Potentials:
    """The potentials after one averaged update at each temperature; constants to the gradient."""

    def step(index: Int[Array, ""], potentials: Potentials) -> Potentials:
        updated = _update(costs, potentials, a, b, annealing.temperature(index))
        return jax.tree.map(lambda old, new: (old + new) / 2, potentials, updated)

    zeros = Potentials(*(jnp.zeros_like(weights) for weights in (a, b, a, b)))
    start = _update(costs, zeros, a, b, annealing.diameter**2)
    return jax.lax.fori_loop(0, annealing.steps(), step, start)


def _update(
    costs: Costs,
    potentials: Potentials,
    a: CellWeights,
    b: TargetWeights,
    temperature: Scalar,
) -> Potentials:
    """All four potentials, each from the old ones."""
    y_to_x = jax.lax.stop_gradient(costs.x_to_y).swapaxes(1, 2)
    return Potentials(
        x_to_y=_soft_minimum(costs.x_to_y, potentials.y_to_x, b, temperature),
        y_to_x=_soft_minimum(y_to_x, potentials.x_to_y, a, temperature),
        x_to_x=_soft_minimum(costs.x_to_x, potentials.x_to_x, a, temperature),
        y_to_y=_soft_minimum(costs.y_to_y, potentials.y_to_y, b, temperature),
    )


def _soft_minimum(
    cost: PairMatrix, potential: ColumnWeights, weights: ColumnWeights, temperature: Scalar
) -> RowWeights:
    """`-e log sum_j w_j exp((g_j - C_ij) / e)`; a weight of 0 leaves its column out."""
    exponents = (potential[:, None, :] - cost) / temperature + jnp.log(weights)[:, None, :]
    return -temperature * jax.nn.logsumexp(exponents, axis=2)


def _box_diagonal(sets: Measures) -> Scalar:
    """Length of the diagonal of the smallest box around the valid cells of all sets."""
    cells = jnp.concatenate([sets.x, sets.y], axis=1)
    valid = jnp.concatenate([sets.a, sets.b], axis=1)[..., None] > 0
    lowest = jnp.min(cells, axis=(0, 1), where=valid, initial=jnp.inf)
    highest = jnp.max(cells, axis=(0, 1), where=valid, initial=-jnp.inf)
    return jax.lax.stop_gradient(jnp.linalg.norm(highest - lowest))
