"""Baselines that are no delta rule: identity, covariate_only, scgen_like, matched displacement.

`Identity`: control cells as they are; e_distance_ratio is 1 for it, and every delta 0.

`CovariateOnly`: the mean treated cell of the labels, whatever the control cells are, a collapse
probe. It is the one baseline that does not move cells. It is what a decoder can learn that ignores
its input, and it is constant over the cells of a stratum on purpose:

    predicted_i = mean over training strata of the same (type, timepoint) of mean T

A model that does not beat it on delta correlation uses labels alone; a distance between sets that
it does well on rewards collapse.

`ScgenLikeLinear`: a constant delta in a linear latent space (Lotfollahi et al. 2019, Nat. Methods
16). It is scGen's arithmetic with principal components in the place of its variational autoencoder
(scGen-like, linear):

    delta = mean over types of mean latent T - mean over types of mean latent C
    predicted_i = control_i + decode(delta)

Cell types count equally, which is the expectation of scGen's balanced sampling of cells by type in
either arm; within a type all training cells count equally, over strata. Where scGen decodes the
whole cell, only delta is decoded here: what the components leave out of a cell stays with the cell.

`MatchedDisplacement`: each control cell moves as the training control cells nearest to it did. In
every training stratum control and treated cells are paired by entropic optimal transport (Cuturi
2013, arXiv 1306.0895; solved by ott-jax) with squared distances on the training components as cost.
With P the plan, the displacement of a control cell leads to the mean of its partners,

    d_j = sum_l P_jl T_l / sum_l P_jl - C_j

and a control cell of the stratum in question moves by the mean of d_j over the training control
cells nearest to it on the components, those of strata at its own timepoint where there are any.
Single displacements carry the noise of single cells over to others; the mean of many does not.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array

from wound_jax.baselines.mean_rules import type_timepoint_mean
from wound_jax.baselines.moving import moved
from wound_jax.baselines.registry import baseline
from wound_jax.baselines.training import Learnt, Training, drawn
from wound_jax.data.strata import Stratum


@baseline("identity")
@dataclass(frozen=True, eq=False)
class Identity:
    """The control cells themselves."""

    @classmethod
    def fit(cls, training: Sequence[Stratum], non_negative: bool) -> "Identity":
        """Nothing to learn."""
        return cls()

    def predict(self, stratum: Stratum) -> Float[np.ndarray, "cells genes"]:
        """The control cells, float32."""
        return stratum.control.astype(np.float32)


@baseline("covariate_only")
@dataclass(frozen=True, eq=False)
class CovariateOnly:
    """The mean treated training cell of the type at the timepoint, for every cell.

    An unknown pair falls back as `type_timepoint_mean_delta` does.

    Attributes:
        training: what is kept of the training strata.
        treated: float64 [strata, genes], their mean treated cells.
    """

    training: Learnt
    treated: Float[np.ndarray, "strata genes"]

    @classmethod
    def fit(cls, training: Sequence[Stratum], non_negative: bool) -> "CovariateOnly":
        """Average the treated cells; means of values that are not negative are not either."""
        prepared = Training.of(training)
        examples = prepared.examples
        return cls(prepared.learnt, examples.profiles.control + examples.deltas)

    def predict(self, stratum: Stratum) -> Float[np.ndarray, "cells genes"]:
        """The same cell as often as there are control cells, float32 [cells, genes]."""
        self.training.require_perturbation(stratum.perturbation)
        known = self.training.examples.profiles
        rows = known.perturbation == stratum.perturbation
        wanted = self.training.profiles([stratum])
        mean = type_timepoint_mean(known.take(rows), self.treated[rows], wanted)
        return np.repeat(mean.astype(np.float32), stratum.n_control, axis=0)


@baseline("scgen_like_linear")
@dataclass(frozen=True, eq=False)
class ScgenLikeLinear:
    """Every cell moves by the decoded latent delta of its perturbation.

    Attributes:
        training: what is kept of the training strata.
        deltas: perturbation -> decoded delta, float64 [genes].
        non_negative: whether predictions are kept at 0 or above.
    """

    training: Learnt
    deltas: Mapping[str, Float[np.ndarray, " genes"]]
    non_negative: bool

    @classmethod
    def fit(cls, training: Sequence[Stratum], non_negative: bool) -> "ScgenLikeLinear":
        """Average the latent cells of both arms, types with equal weight."""
        prepared = Training.of(training)
        deltas = {}
        for perturbation in dict.fromkeys(stratum.perturbation for stratum in prepared):
            own = [s for s in prepared if s.perturbation == perturbation]
            delta = _balanced_delta(own) @ prepared.components.axes.T
            deltas[perturbation] = delta @ prepared.components.axes
        return cls(prepared.learnt, deltas, non_negative)

    def predict(self, stratum: Stratum) -> Float[np.ndarray, "cells genes"]:
        """Control cells moved by the delta, float32 [cells, genes]."""
        self.training.require_perturbation(stratum.perturbation)
        return moved(stratum.control, self.deltas[stratum.perturbation], self.non_negative)


def _balanced_delta(strata: Sequence[Stratum]) -> Float[np.ndarray, " genes"]:
    """Mean over types of the mean treated cell minus the same of the control cells."""
    deltas = []
    for cell_type in dict.fromkeys(stratum.cell_type for stratum in strata):
        own = [s for s in strata if s.cell_type == cell_type]
        treated = sum(s.treated.sum(axis=0, dtype=np.float64) for s in own)
        control = sum(s.control.sum(axis=0, dtype=np.float64) for s in own)
        n_treated, n_control = sum(s.n_treated for s in own), sum(s.n_control for s in own)
        deltas.append(treated / n_treated - control / n_control)
    return np.mean(deltas, axis=0)


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
        # ott adds axes in silence, while it is traced.
        with jax.numpy_rank_promotion("allow"):
            return linear.solve(geometry, rows, columns, **limits).matrix

    return solve
