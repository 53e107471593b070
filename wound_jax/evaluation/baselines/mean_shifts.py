"""Mean shifts of training strata: of all, of a cell type, of a cell type at a timepoint.

Owns the simplest shift rules. Every training stratum counts equally,

    shift(s) = mean over t in N(s) of shift_t,   N(s): the training strata most like s by label

because the scores average over strata in the same way; weights by cells would let the most
frequent cell type dictate the shift of all others.
"""

import numpy as np
from jaxtyping import Bool

from wound_jax.evaluation.baselines.profiles import Profiles, Shifts, WantedShifts, same
from wound_jax.evaluation.baselines.rules import shift_rule


@shift_rule("global_mean_shift")
def global_mean_shift(
    training: Profiles, shifts: Shifts, wanted: Profiles, _: None
) -> WantedShifts:
    """The mean shift of the perturbation over all training strata."""
    return _mean_over([np.ones((len(wanted), len(training)), dtype=bool)], shifts)


@shift_rule("type_mean_shift")
def type_mean_shift(training: Profiles, shifts: Shifts, wanted: Profiles, _: None) -> WantedShifts:
    """The mean shift of the cell type over timepoints; for an unknown type that of all strata."""
    of_type = same(wanted.cell_type, training.cell_type)
    return _mean_over([of_type, np.ones_like(of_type)], shifts)


@shift_rule("type_timepoint_mean_shift")
def type_timepoint_mean_shift(
    training: Profiles, shifts: Shifts, wanted: Profiles, _: None
) -> WantedShifts:
    """The shift of the cell type at the timepoint.

    A pair that training lacks takes the shift of its type; an unknown type takes the mean over
    types at its timepoint, and at an unknown timepoint the mean over all strata.
    """
    return type_timepoint_mean(training, shifts, wanted)


def type_timepoint_mean(training: Profiles, values: Shifts, wanted: Profiles) -> WantedShifts:
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


def _mean_over(choices: list[Bool[np.ndarray, "wanted strata"]], shifts: Shifts) -> WantedShifts:
    """The mean shift over the first choice of training strata that is not empty."""
    members = choices[-1]
    for choice in reversed(choices[:-1]):
        members = np.where(choice.any(axis=1, keepdims=True), choice, members)
    return members @ shifts / members.sum(axis=1, keepdims=True)
