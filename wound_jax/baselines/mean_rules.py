"""Delta rules made of the mean deltas of training strata.

`global_mean_delta`, `type_mean_delta`, `type_timepoint_mean_delta`: every training stratum counts
equally,

    delta(s) = mean over t in N(s) of delta_t,   N(s): the training strata most like s by label

because the scores average over strata in the same way; weights by cells would let the most
frequent cell type dictate the delta of all others.

`regressed_mean_delta`: the regression between covariate-only prediction and mean delta. With C_l,
T_l the mean cells of the training strata most like stratum s by label (as for
`type_timepoint_mean_delta`),

    wanted mean = T_l + slope (mean C_s - C_l),     0 <= slope <= 1

A slope of 1 is the mean delta: all that sets the control cells apart is kept. A slope of 0 takes it
for noise, which it is where cells or replicates are few, and the control cells are moved to the
mean of the treated training cells. Unlike `covariate_only` it keeps the spread of the control
cells.

`kernel_mean_delta`: a mean over training strata weighted by likeness of the control cells, the
kernel regression of Nadaraya (1964) and Watson (1964),

    delta(s) = sum_t w_t delta_t / sum_t w_t,   w_t = exp(-|z_s - z_t|^2 / (2 h^2 m^2))

with z the mean control cell on the training components and m^2 the mean squared distance between
training strata. The bandwidth h runs from infinity (the global mean delta) to the nearest stratum.
"""

import numpy as np
from jaxtyping import Bool, Float

from wound_jax.baselines.profiles import Deltas, Profiles, WantedDeltas, same
from wound_jax.baselines.rules import delta_rule


@delta_rule("global_mean_delta")
def global_mean_delta(
    training: Profiles, deltas: Deltas, wanted: Profiles, _: None
) -> WantedDeltas:
    """The mean delta of the perturbation over all training strata."""
    return _mean_over([np.ones((len(wanted), len(training)), dtype=bool)], deltas)


@delta_rule("type_mean_delta")
def type_mean_delta(training: Profiles, deltas: Deltas, wanted: Profiles, _: None) -> WantedDeltas:
    """The mean delta of the cell type over timepoints; for an unknown type that of all strata."""
    of_type = same(wanted.cell_type, training.cell_type)
    return _mean_over([of_type, np.ones_like(of_type)], deltas)


@delta_rule("type_timepoint_mean_delta")
def type_timepoint_mean_delta(
    training: Profiles, deltas: Deltas, wanted: Profiles, _: None
) -> WantedDeltas:
    """The delta of the cell type at the timepoint.

    A pair that training lacks takes the delta of its type; an unknown type takes the mean over
    types at its timepoint, and at an unknown timepoint the mean over all strata.
    """
    return type_timepoint_mean(training, deltas, wanted)


def type_timepoint_mean(training: Profiles, values: Deltas, wanted: Profiles) -> WantedDeltas:
    """Mean of some values over the training strata of the most specific label there is.

    Args:
        training: the training strata.
        values: [strata, genes], a row for each.
        wanted: strata to find the values of.

    Returns:
        [wanted, genes], over the strata of the same type and timepoint, else of the same type,
        else at the same timepoint, else over all.
    """
    of_type = same(wanted.cell_type, training.cell_type)
    at_timepoint = same(wanted.timepoint, training.timepoint)
    choices = [of_type & at_timepoint, of_type, at_timepoint, np.ones_like(of_type)]
    return _mean_over(choices, values)


def _mean_over(choices: list[Bool[np.ndarray, "wanted strata"]], deltas: Deltas) -> WantedDeltas:
    """The mean delta over the first choice of training strata that is not empty."""
    members = choices[-1]
    for choice in reversed(choices[:-1]):
        members = np.where(choice.any(axis=1, keepdims=True), choice, members)
    return members @ deltas / members.sum(axis=1, keepdims=True)


_SLOPES = tuple(np.linspace(1.0, 0.0, 21))


@delta_rule("regressed_mean_delta", settings=_SLOPES)
def regressed_mean_delta(
    training: Profiles, deltas: Deltas, wanted: Profiles, slope: float
) -> WantedDeltas:
    """The delta of type and timepoint, less what sets the control cells apart from training."""
    apart = wanted.control - type_timepoint_mean(training, training.control, wanted)
    return type_timepoint_mean(training, deltas, wanted) - (1.0 - slope) * apart


_BANDWIDTHS = (np.inf, *np.geomspace(2.0, 0.05, 16))


@delta_rule("kernel_mean_delta", settings=_BANDWIDTHS)
def kernel_mean_delta(
    training: Profiles, deltas: Deltas, wanted: Profiles, bandwidth: float
) -> WantedDeltas:
    """Mean delta weighted by a Gaussian of the distance between mean control cells."""
    among = _squared_distances(training.scores, training.scores)
    # Where all control means coincide any unit will do.
    scale = 2.0 * bandwidth**2 * (among.mean() or 1.0)
    to_wanted = _squared_distances(wanted.scores, training.scores)
    # Only ratios of weights count; the nearest stratum keeps the weight 1 at any bandwidth.
    weights = np.exp(-(to_wanted - to_wanted.min(axis=1, keepdims=True)) / scale)
    return weights @ deltas / weights.sum(axis=1, keepdims=True)


def _squared_distances(
    x: Float[np.ndarray, "wanted dims"], y: Float[np.ndarray, "strata dims"]
) -> Float[np.ndarray, "wanted strata"]:
    return np.square(x[:, None] - y[None, :]).sum(axis=-1)
