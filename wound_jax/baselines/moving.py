"""How control cells are moved to where their mean is wanted.

Owns the step from an expected delta of the mean to a population of cells. In a space without
negative values (expression) a cell cannot be moved below 0, and cutting at 0 alone would leave the
mean above the wanted one wherever the delta is downwards. The cells are therefore moved, gene by
gene, to the nearest non-negative values whose mean is the wanted one:

    y = argmin |y - x - s|^2  subject to  y >= 0, mean y = max(mean x + s, 0)
      = max(x + s + c, 0),    c <= 0 such that the mean is right

the projection on a simplex, solved exactly by the algorithm of Michelot (1986, J. Optim. Theory
Appl. 50, 195-200): start with c = 0, and while some values are negative, set them to 0 and take
what is missing from the positive ones.
"""

import numpy as np
from jaxtyping import Float


def moved(
    cells: Float[np.ndarray, "cells genes"],
    delta: Float[np.ndarray, " genes"] | Float[np.ndarray, "cells genes"],
    non_negative: bool,
) -> Float[np.ndarray, "cells genes"]:
    """Cells moved by a delta, all by the same or each by its own.

    Args:
        cells: [cells, genes].
        delta: [genes] or [cells, genes].
        non_negative: whether the space holds no negative value.

    Returns:
        float32 [cells, genes] with mean `mean cell + mean delta`, in a non-negative space with
        the maximum of that and 0.
    """
    cells = cells.astype(np.float32) + delta.astype(np.float32)
    if non_negative:
        below = cells.min(axis=0) < 0.0
        cells[:, below] = _nearest_non_negative(cells[:, below])
    return cells


def _nearest_non_negative(
    values: Float[np.ndarray, "cells genes"],
) -> Float[np.ndarray, "cells genes"]:
    """The nearest non-negative values with the same means, or zeros where a mean is negative."""
    values = values.astype(np.float64)
    wanted = values.sum(axis=0)
    # A sum below the rounding of float32 has no sign of its own.
    reachable = wanted > np.finfo(np.float32).eps * np.abs(values).sum(axis=0)
    result = np.zeros_like(values)
    result[:, reachable] = _on_simplex(values[:, reachable], wanted[reachable])
    return result


def _on_simplex(
    values: Float[np.ndarray, "cells genes"], total: Float[np.ndarray, " genes"]
) -> Float[np.ndarray, "cells genes"]:
    """Each column projected on the non-negative columns of a positive sum."""
    positive = np.ones_like(values, dtype=bool)
    while True:
        sums = np.where(positive, values, 0.0).sum(axis=0)
        moved_by = (total - sums) / positive.sum(axis=0)
        # The correction only falls, so that no value comes back.
        still = positive & (values + moved_by > 0.0)
        if still.sum() == positive.sum():
            return np.where(positive, values + moved_by, 0.0)
        positive = still
