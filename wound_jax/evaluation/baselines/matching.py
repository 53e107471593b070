"""Each control cell moves as the training control cells nearest to it did.

Owns nearest-neighbour matching. In every training stratum control and treated cells are paired by
entropic optimal transport (Cuturi 2013, arXiv 1306.0895; solved by ott-jax) with squared distances
on the training components as cost. With P the plan, the displacement of a control cell leads to
the mean of its partners,

    d_j = sum_l P_jl T_l / sum_l P_jl - C_j

and a control cell of the stratum in question moves by the mean of d_j over the training control
cells nearest to it on the components, those of strata at its own timepoint where there are any.
Single displacements carry the noise of single cells over to others; the mean of many does not.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array

from wound_jax.evaluation.baselines.learnt import Learnt
from wound_jax.evaluation.baselines.moving import moved
from wound_jax.evaluation.baselines.registry import baseline
from wound_jax.evaluation.baselines.training import Training, drawn
from wound_jax.evaluation.strata import Stratum

# Cells of each arm of a training stratum that are paired, at most.
_MAX_CELLS = 256
# Temperature of the pairing over the mean cost: partners are near, and 2,000 iterations suffice.
_RELATIVE_EPSILON = 0.02
_MAX_ITERATIONS = 2_000
# Largest violation of the marginals, as a sum of absolute differences.
_THRESHOLD = 1e-3
# Neighbours that displacements are averaged over, and the share of all candidates they may be.
_MAX_NEIGHBOURS = 100
_CANDIDATES_A_NEIGHBOUR = 10


@baseline("matched_displacement")
@dataclass(frozen=True, eq=False)
class MatchedDisplacement:
    """Every control cell moves by a displacement of its own.

    Attributes:
        training: what is kept of the training strata.
        coordinates: [displaced, dims], training control cells on the components.
        displacements: float32 [displaced, genes], where each of them went.
        stratum_of: [displaced], the training stratum of each.
        non_negative: whether predictions are kept at 0 or above.
    """

    training: Learnt
    coordinates: Float[np.ndarray, "displaced dims"]
    displacements: Float[np.ndarray, "displaced genes"]
    stratum_of: Int[np.ndarray, " displaced"]
    non_negative: bool

    @classmethod
    def fit(cls, training: Sequence[Stratum], non_negative: bool) -> "MatchedDisplacement":
        """Pair the cells of every training stratum."""
        prepared = Training.of(training)
        pairs = [_displaced(prepared, stratum) for stratum in prepared]
        sizes = [len(coordinates) for coordinates, _ in pairs]
        return cls(
            prepared.learnt,
            np.concatenate([coordinates for coordinates, _ in pairs]),
            np.concatenate([displacements for _, displacements in pairs]),
            np.repeat(np.arange(len(pairs)), sizes),
            non_negative,
        )

    def predict(self, stratum: Stratum) -> Float[np.ndarray, "cells genes"]:
        """Control cells moved as their neighbours, float32 [cells, genes]."""
        candidates = np.flatnonzero(self._comparable(stratum)[self.stratum_of])
        n_averaged = min(_MAX_NEIGHBOURS, max(1, len(candidates) // _CANDIDATES_A_NEIGHBOUR))
        wanted = self.training.components.project(stratum.control)
        squared = _squared_distances(wanted, self.coordinates[candidates])
        nearest = candidates[np.argpartition(squared, n_averaged - 1, axis=1)[:, :n_averaged]]
        weights = csr_array(
            (
                np.full(nearest.size, 1.0 / n_averaged, dtype=np.float32),
                nearest.ravel(),
                np.arange(0, nearest.size + 1, n_averaged),
            ),
            shape=(len(wanted), len(self.displacements)),
        )
        return moved(stratum.control, weights @ self.displacements, self.non_negative)

    def _comparable(self, stratum: Stratum) -> Bool[np.ndarray, " strata"]:
        """The training strata of its perturbation, at its timepoint where there are any."""
        self.training.require_perturbation(stratum.perturbation)
        known = self.training.examples.profiles
        of_perturbation = known.perturbation == stratum.perturbation
        now = of_perturbation & np.array([time == stratum.timepoint for time in known.timepoint])
        return now if now.any() else of_perturbation


def _displaced(
    training: Training, stratum: Stratum
) -> tuple[Float[np.ndarray, "displaced dims"], Float[np.ndarray, "displaced genes"]]:
    """Control cells of a training stratum on the components, and their displacements."""
    control, treated = (drawn(stratum, arm, _MAX_CELLS) for arm in ("control", "treated"))
    coordinates = training.components.project(control)
    cost = _squared_distances(coordinates, training.components.project(treated))
    plan = _plan(cost).astype(np.float32)
    partners = plan / plan.sum(axis=1, keepdims=True) @ treated
    return coordinates, (partners - control).astype(np.float32)


def _squared_distances(
    x: Float[np.ndarray, "cells dims"], y: Float[np.ndarray, "displaced dims"]
) -> Float[np.ndarray, "cells displaced"]:
    """Squared distances between all pairs, float64."""
    squares = np.square(x).sum(axis=1)[:, None] + np.square(y).sum(axis=1)
    return np.maximum(squares - 2.0 * x @ y.T, 0.0)


def _plan(cost: Float[np.ndarray, "cells targets"]) -> Float[np.ndarray, "cells targets"]:
    """The entropic plan between uniform weights; padded to one size, to be compiled once."""
    n, m = cost.shape
    padded = np.zeros((_MAX_CELLS, _MAX_CELLS), dtype=np.float32)
    # The plan is the same whatever the unit of the cost, if the temperature has the same.
    padded[:n, :m] = cost / max(float(cost.mean()), np.finfo(np.float32).tiny)
    rows, columns = np.zeros((2, _MAX_CELLS), dtype=np.float32)
    rows[:n], columns[:m] = 1.0 / n, 1.0 / m
    return np.asarray(_solver()(padded, rows, columns))[:n, :m]


@functools.cache
def _solver() -> Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """The compiled solver; ott-jax takes seconds to import, so only here."""
    import jax
    from ott.geometry.geometry import Geometry
    from ott.solvers import linear

    @jax.jit
    def solve(cost, rows, columns):
        geometry = Geometry(cost_matrix=cost, epsilon=_RELATIVE_EPSILON)
        limits = {"threshold": _THRESHOLD, "max_iterations": _MAX_ITERATIONS}
        return linear.solve(geometry, rows, columns, **limits).matrix

    return solve
