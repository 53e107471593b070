"""Which expected deltas can be: whether a rule stays near what the data hold, or has exploded.

A regression over few strata that hardly differ has no slope to learn, and what it makes of rounding
or of noise can be of any size. With m_i the mean control and the mean treated cells of the training
strata, c their mean and x the mean control cell of a stratum, all distances root mean squares over
genes,

    reach = max_i |m_i - c| + |x - c|

is at least the distance from x to any m_i: whoever moves x to the mean of known cells stays within
it, and the mean rules add at most as much again. A delta is implausible where it is not finite or
longer than `LARGEST` times the reach. That rules out an explosion and no bad prediction: a rule
that is merely wrong is scored like any other.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from wound_jax.baselines.profiles import Examples

# Times the reach. Rules that are no regression stay below 2.
LARGEST = 10.0
# Share of the size of the cells that is rounding, where all means coincide.
_ROUNDING = 1e-5


def implausible(
    examples: Examples,
    control_mean: Float[np.ndarray, " genes"],
    deltas: Float[np.ndarray, "rules genes"] | Sequence[Float[np.ndarray, " genes"]],
) -> Bool[np.ndarray, " rules"]:
    """Which deltas of one stratum cannot be.

    Args:
        examples: the training strata.
        control_mean: the mean control cell of the stratum.
        deltas: as several rules expect them.
    """
    bound = LARGEST * _reach(examples, control_mean)
    with np.errstate(over="ignore", invalid="ignore"):
        # Not "longer than": a length that is not a number is none.
        return np.array([not _length(np.asarray(delta)) <= bound for delta in deltas])


def beyond(examples: Examples, cells: Float[np.ndarray, "cells genes"]) -> float | None:
    """How many times larger the mean of predicted cells is than any mean cell in training can be.

    Args:
        examples: the training strata.
        cells: as a model predicts them for one stratum.

    Returns:
        None where it is within `LARGEST` times that, however wrong; NaN is beyond any size.
    """
    center, radius = examples.ball
    largest = np.float64(_length(center) + radius)
    with np.errstate(all="ignore"):
        length = _length(cells.mean(axis=0, dtype=np.float64))
        return None if length <= LARGEST * largest else float(length / largest)


def _reach(examples: Examples, control_mean: Float[np.ndarray, " genes"]) -> float:
    center, radius = examples.ball
    return radius + _length(control_mean - center) + _ROUNDING * _length(center)


def _length(values: Float[np.ndarray, " genes"]) -> float:
    """Root mean square over genes."""
    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))
