"""The debiased Sinkhorn divergence between two sets of cells (Feydy et al. 2019, arXiv 1810.08278).

    S(x, y) = OT(x, y) - 1/2 OT(x, x) - 1/2 OT(y, y)
    OT(x, y) = min_P <P, C> + e KL(P | a b'),      C = |x - y|^2 / 2,      e = blur^2

`epsilon` names how the temperature e is chosen, and by which algorithm:

- "relative": e = relative_epsilon * mean(C), a constant to the gradient, for each set; ott-jax
  iterates to convergence. It keeps its meaning whatever the width and the unit of the features, and
  0.3 takes 10 to 50 iterations.
- "absolute": e = blur^2, likewise to convergence. A blur far below the distances between cells is
  not reached within `max_iterations`; the diagnostic `converged` says so.
- "geomloss": e = blur^2, by the annealing of geomloss `SamplesLoss("sinkhorn", blur, scaling)`,
  which stops after a fixed number of steps whether it has converged or not. For parity.

Gradient. OT is a maximum over dual potentials f, g of a function of (f, g, C). At the maximum the
derivative with respect to f and g is 0, so that of OT is the partial one in C at fixed potentials
(Danskin's theorem), which is the plan P: dOT = sum_ij P_ij dC_ij. ott offers this as `use_danskin`;
here the solver sees constants and the dual is evaluated on the live C, which is the same
derivative and stays finite for the weights of 0 that mark padding.
"""

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from wound_jax.arrays import CellFeatures, CellMask, PerSet, TargetFeatures, TargetMask
from wound_jax.losses.distances import (
    CellWeights,
    ColumnWeights,
    Measures,
    PairMatrix,
    RowWeights,
    TargetWeights,
    as_measures,
    fill_empty,
    filled_sets,
    pair_mean,
    self_squared_distances,
    squared_distances,
)
from wound_jax.losses.geomloss import geomloss_parity
from wound_jax.losses.registry import SetLossValue, register_loss
from wound_jax.losses.settings import SinkhornSettings

if TYPE_CHECKING:
    import ott.solvers.linear.sinkhorn

# By its whole name: ott takes seconds to import, and is not imported to say what it solves with.
Solver: TypeAlias = "ott.solvers.linear.sinkhorn.Sinkhorn"
# The temperature where all cells of a set coincide: the divergence is 0 there at any temperature,
# but none of 0 can be divided by.
SMALLEST_TEMPERATURE = 1e-12


@register_loss("sinkhorn")
class Sinkhorn(SinkhornSettings):
    """The Sinkhorn divergence, a set loss; its settings say what each option is."""

    def __call__(
        self,
        predicted: CellFeatures,
        target: TargetFeatures,
        predicted_mask: CellMask,
        target_mask: TargetMask,
    ) -> SetLossValue:
        """The divergence of each set, in the squared unit of the features, and how it was found."""
        sets = as_measures(predicted, target, predicted_mask, target_mask)
        if self.epsilon == "geomloss":
            return geomloss_parity(sets, blur=self.blur, scaling=self.scaling)
        if self.epsilon == "relative":
            temperature = relative_temperature(*sets, self.relative_epsilon)
        else:
            temperature = jnp.full(predicted.shape[0], self.blur**2, sets.x.dtype)
        return sinkhorn_divergence(
            sets, temperature, threshold=self.threshold, max_iterations=self.max_iterations
        )


def relative_temperature(
    x: CellFeatures, y: TargetFeatures, a: CellWeights, b: TargetWeights, relative_epsilon: float
) -> PerSet:
    """`relative_epsilon` times the mean cost between the two sides of each set; a constant."""
    mean = pair_mean(a, squared_distances(x, y, a, b) / 2, b)
    return jax.lax.stop_gradient(relative_epsilon * mean)


def sinkhorn_divergence(
    sets: Measures, temperature: PerSet, *, threshold: float, max_iterations: int
) -> SetLossValue:
    """The debiased divergence at the given temperatures, iterated to convergence by ott-jax.

    Args:
        sets: the weighted cells.
        temperature: of each set, in the unit of the squared features.
        threshold: largest error of the marginals, as a sum of absolute differences.
        max_iterations: of each of the three transport problems.

    Returns:
        The divergence of each set, 0 where it is empty, with the diagnostics `converged` (1 where
        all three problems reached the threshold, else 0) and `iterations` (of the slowest).
    """
    x, y, a, b = sets
    filled = filled_sets(a, b)
    temperature = jnp.where(filled, jnp.maximum(temperature, SMALLEST_TEMPERATURE), 1)
    weights_x, weights_y = fill_empty(a, filled), fill_empty(b, filled)

    def transport(squares: PairMatrix, rows: RowWeights, columns: ColumnWeights, solver: Solver):
        # An empty set becomes a problem without costs, which is solved at once.
        costs = jnp.where(filled[:, None, None], squares / 2, 0)
        return _transport(solver, costs, rows, columns, temperature)

    solver = _solver(threshold, max_iterations)
    symmetric = _solver(threshold, max_iterations, symmetric=True)
    xy = transport(squared_distances(x, y, a, b), weights_x, weights_y, solver)
    xx = transport(self_squared_distances(x, a), weights_x, weights_x, symmetric)
    yy = transport(self_squared_distances(y, b), weights_y, weights_y, symmetric)
    converged = xy.converged & xx.converged & yy.converged
    iterations = jnp.maximum(xy.iterations, jnp.maximum(xx.iterations, yy.iterations))
    figures = {"converged": converged, "iterations": iterations}
    return SetLossValue(
        jnp.where(filled, xy.cost - (xx.cost + yy.cost) / 2, 0),
        {name: figure.astype(x.dtype) for name, figure in figures.items()},
    )


class Transport(NamedTuple):
    """A solved transport problem of each set."""

    cost: PerSet
    converged: Bool[Array, "sets"]
    iterations: Int[Array, "sets"]


def _solver(threshold: float, max_iterations: int, *, symmetric: bool = False) -> Solver:
    """ott's solver; for a set against itself with the averaged updates of Feydy et al., eq. 25.

    The error is taken at every iteration: over a batch of sets it is computed at every iteration
    anyhow, since each set stops at its own.
    """
    # Imported here: ott takes seconds to import, and no other loss needs it.
    from ott.solvers.linear import acceleration, sinkhorn

    return sinkhorn.Sinkhorn(
        threshold=threshold,
        max_iterations=max_iterations,
        inner_iterations=1,
        parallel_dual_updates=symmetric,
        momentum=acceleration.Momentum(start=0, value=0.5 if symmetric else 1.0),
    )


def _transport(
    solver: Solver,
    costs: PairMatrix,
    a: RowWeights,
    b: ColumnWeights,
    temperature: PerSet,
) -> Transport:
    """Solves each set's problem, and evaluates its dual on costs that carry a gradient."""
    from ott.geometry.geometry import Geometry
    from ott.problems.linear.linear_problem import LinearProblem

    def solve(cost, row_weights, column_weights, epsilon):
        # ott adds axes in silence, while it is traced: here, under the `vmap` and every derivative.
        with jax.numpy_rank_promotion("allow"):
            geometry = Geometry(cost, epsilon=epsilon)
            solved = solver(LinearProblem(geometry, row_weights, column_weights))
        return solved.f, solved.g, jnp.asarray(solved.converged), jnp.asarray(solved.n_iters)

    frozen = jax.lax.stop_gradient((costs, a, b, temperature))
    f, g, converged, iterations = jax.lax.stop_gradient(jax.vmap(solve)(*frozen))
    return Transport(_dual(costs, f, g, a, b, temperature), converged, iterations)


def _dual(
    costs: PairMatrix,
    f: RowWeights,
    g: ColumnWeights,
    a: RowWeights,
    b: ColumnWeights,
    temperature: PerSet,
) -> PerSet:
    """`<a, f - e log a> + <b, g - e log b> + e (1 - sum P)`, P = exp((f + g - C) / e).

    ott's potentials hold the weights: f and g are -inf where a weight is 0.
    """
    e = temperature[:, None]
    exponents = (f[:, :, None] + g[:, None, :] - costs) / e[..., None]
    # Left out before the exponential: what is not selected there must not become inf.
    valid = (a[:, :, None] > 0) & (b[:, None, :] > 0)
    plan = jnp.exp(jnp.where(valid, exponents, -jnp.inf))
    of_rows = jnp.sum(jnp.where(a > 0, a * (f - e * jnp.log(a)), 0), axis=1)
    of_columns = jnp.sum(jnp.where(b > 0, b * (g - e * jnp.log(b)), 0), axis=1)
    return of_rows + of_columns + temperature * (1 - plan.sum(axis=(1, 2)))
