"""The energy distance between two sets of cells (Szekely & Rizzo 2013).

    E(x, y) = mean d(x, y) - 1/2 mean d(x, x) - 1/2 mean d(y, y),      d Euclidean

The means run over all pairs, the diagonal included, each cell with its weight. The value equals
that of geomloss `SamplesLoss("energy")`; it is 0 exactly where the two sets agree.
"""

import jax.numpy as jnp

from wound_jax.arrays import CellFeatures, CellMask, PerSet, TargetFeatures, TargetMask
from wound_jax.losses import SetLoss, SetLossValue, register_loss
from wound_jax.losses.distances import (
    Measures,
    as_measures,
    euclidean,
    filled_sets,
    pair_mean,
    self_squared_distances,
    squared_distances,
)


@register_loss("energy")
def make_energy() -> SetLoss:
    """The energy distance; it has no options."""
    return energy


def energy(
    predicted: CellFeatures,
    target: TargetFeatures,
    predicted_mask: CellMask,
    target_mask: TargetMask,
) -> SetLossValue:
    """The energy distance of each set, in the unit of the features; no diagnostics."""
    sets = as_measures(predicted, target, predicted_mask, target_mask)
    return SetLossValue(energy_distance(sets))


def energy_distance(sets: Measures) -> PerSet:
    """The energy distance of each set between weighted cells.

    Returns:
        Values >= 0 up to rounding; 0 where either side of a set is empty.
    """
    x, y, a, b = sets
    across = pair_mean(a, euclidean(squared_distances(x, y, a, b)), b)
    within_x = pair_mean(a, euclidean(self_squared_distances(x, a)), a)
    within_y = pair_mean(b, euclidean(self_squared_distances(y, b)), b)
    return jnp.where(filled_sets(a, b), across - (within_x + within_y) / 2, 0)
