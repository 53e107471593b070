"""Delta rules made of regressions over the training strata.

The ridge and the additive rule solve one linear system (`smoothing_weights`). With the kernel K of
the training strata and k between wanted and training strata,

    [ K + penalty I   1 ] [A]   [Y]
    [ 1'              0 ] [b] = [0],     delta(wanted) = k A + b

which is ridge regression on features Z with K = Z Z' (Saunders, Gammerman and Vovk 1998, Ridge
regression learning algorithm in dual variables) and leaves the offset b without penalty.

`additive_ridge`: the additive model of one-hot labels, for each perturbation on its own,

    delta(type, timepoint) = offset + u_type + v_timepoint

fitted by ridge regression over the training strata, the offset without penalty. A type or timepoint
that training lacks has no term. It predicts a combination that training lacks from its parts.

`gene_wise`: one small regression for each gene g over the training strata s,

    delta_sg = a_g + b_g C_sg,     b_g = S_xy / (S_xx + penalty S)

with S_xx, S_xy the gene's sums of squares and products about its means over strata and S the mean
of S_xx over genes. An infinite penalty is the global mean delta; a slope of -1 says that treated
cells are alike whatever the control cells are.

`pls_pca`: PLS regression (Wold, Sjostrom and Eriksson 2001, Chemom. Intell. Lab. Syst. 58,
109-130). With X the centred control means of the training strata and Y their centred deltas, one
direction after the other,

    w = argmax |Y' X w|, |w| = 1,     t = X w,     X <- X - t t' X / t't,

and the delta is the regression of Y on the first few t, which are orthogonal. No direction is the
global mean delta. Directions of control means that no delta goes along with come last.

`ridge_pca`: ridge regression on principal components, z = PCA(mean C), delta = z W + b, one row a
training stratum. It reaches cell types without treated training cells, where related types have
like deltas; an infinite penalty is the global mean delta. Published as "linear on PCA": delta
correlation .780 on held-out types of an interferon-beta blood set, above a set transformer's .642
on the same split.
"""

import itertools

import numpy as np
from jaxtyping import Float

from wound_jax.baselines.profiles import Deltas, Profiles, WantedDeltas, same
from wound_jax.baselines.rules import delta_rule

# Share of a value below which a difference is rounding, of float64 sums over many cells.
_DIFFERENCE = 1e-12


def smoothing_weights(
    kernel: Float[np.ndarray, "strata strata"],
    wanted_kernel: Float[np.ndarray, "wanted strata"],
    penalty: float,
) -> Float[np.ndarray, "wanted strata"]:
    """Weights W, each row of sum 1, such that the expected deltas are W Y.

    Args:
        kernel: positive semi-definite, among the training strata.
        wanted_kernel: between wanted and training strata.
        penalty: positive, in the unit of the kernel.

    Returns:
        float64 [wanted, strata].
    """
    n = len(kernel)
    system = np.ones((n + 1, n + 1))
    system[:n, :n] = kernel + penalty * np.eye(n)
    system[n, n] = 0.0
    wanted = np.concatenate([wanted_kernel, np.ones((len(wanted_kernel), 1))], axis=1)
    # The system is symmetric, so that solving for the wanted rows gives the weights of Y.
    return np.linalg.solve(system, wanted.T)[:n].T


def without_rounding(
    differences: Float[np.ndarray, "strata values"], size: float | Float[np.ndarray, " values"]
) -> Float[np.ndarray, "strata values"]:
    """Differences between strata, 0 where they are rounding: their slopes would be of any size.

    Args:
        differences: from a mean over the strata.
        size: of the values whose differences they are, for each of them or for all.
    """
    return np.where(np.abs(differences) > _DIFFERENCE * np.abs(size), differences, 0.0)


def _apart(training: Profiles) -> Float[np.ndarray, "strata dims"]:
    """What sets training strata apart from their mean on the components.

    Means of the same control cells differ by the order in which they are summed, and coordinates by
    that much at most.
    """
    size = float(np.sqrt(np.square(training.control).sum(axis=1).max()))
    return without_rounding(training.scores - training.scores.mean(axis=0), size)


# Variance of the terms over that of what they leave unexplained: 0 leaves a term out.
_RATIOS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0, 1e4)


@delta_rule("additive_ridge", settings=tuple(itertools.product(_RATIOS, _RATIOS)))
def additive_ridge(
    training: Profiles, deltas: Deltas, wanted: Profiles, ratios: tuple[float, float]
) -> WantedDeltas:
    """Ridge regression of the delta on one-hot cell type and timepoint."""
    among, to_wanted = (
        _covariance(training, training, ratios),
        _covariance(wanted, training, ratios),
    )
    return smoothing_weights(among, to_wanted, penalty=1.0) @ deltas


def _covariance(
    wanted: Profiles, training: Profiles, ratios: tuple[float, float]
) -> Float[np.ndarray, "wanted strata"]:
    """Covariance of the sums of terms: only equal labels have a term in common."""
    of_type, of_timepoint = ratios
    return of_type * same(wanted.cell_type, training.cell_type) + of_timepoint * same(
        wanted.timepoint, training.timepoint
    )


_PENALTIES = tuple(np.logspace(3, -5, 25))


@delta_rule("gene_wise", settings=_PENALTIES)
def gene_wise(training: Profiles, deltas: Deltas, wanted: Profiles, penalty: float) -> WantedDeltas:
    """Shrunken regression of each gene's delta on its control expression."""
    x_mean, y_mean = training.control.mean(axis=0), deltas.mean(axis=0)
    x, y = without_rounding(training.control - x_mean, x_mean), deltas - y_mean
    s_xx, s_xy = np.square(x).sum(axis=0), (x * y).sum(axis=0)
    # The tiny number: where no gene varies over strata every slope is 0.
    slopes = s_xy / (s_xx + penalty * s_xx.mean() + np.finfo(np.float64).tiny)
    return y_mean + slopes * (wanted.control - x_mean)


_MAX_DIRECTIONS = 8


# Squared covariances below this, against the first, are rounding.
_ROUNDING = 1e-12


@delta_rule("pls_pca", settings=range(_MAX_DIRECTIONS + 1))
def pls_pca(
    training: Profiles, deltas: Deltas, wanted: Profiles, n_directions: int
) -> WantedDeltas:
    """PLS of the delta on the components of the mean control cell, unscaled."""
    center, mean = training.scores.mean(axis=0), deltas.mean(axis=0)
    known, new = _apart(training), wanted.scores - center
    likeness = (deltas - mean) @ (deltas - mean).T
    weights, first = np.zeros((len(wanted), len(training))), 0.0
    for _ in range(n_directions):
        covariances, directions = np.linalg.eigh(known.T @ likeness @ known)
        first = first or covariances[-1]
        if covariances[-1] <= _ROUNDING * first:
            break
        t, t_new = known @ directions[:, -1], new @ directions[:, -1]
        weights += np.outer(t_new, t / (t @ t))
        loading = t @ known / (t @ t)
        known, new = known - np.outer(t, loading), new - np.outer(t_new, loading)
    return mean + weights @ (deltas - mean)


# Multiples of the variance of the regressors summed over strata: from the mean delta to no penalty.
PENALTIES = tuple(np.logspace(2, -4, 25))


@delta_rule("ridge_pca", settings=PENALTIES)
def ridge_pca(training: Profiles, deltas: Deltas, wanted: Profiles, penalty: float) -> WantedDeltas:
    """Ridge regression of the delta on the components of the mean control cell."""
    center = training.scores.mean(axis=0)
    known, new = _apart(training), wanted.scores - center
    variance = float(np.square(known).sum()) or 1.0
    return smoothing_weights(known @ known.T, new @ known.T, penalty * variance) @ deltas
