"""Predicted expression rounded to what counting can measure, so that zeros look like real ones.

A network predicts expected expression: a gene that a third of the cells express at one count gets a
third of it in every cell, a value that no measured cell has. Below one count c_i of its cell, a
value x is therefore rounded at random,

    c_i with probability x / c_i,  else 0,

which keeps its expectation. Gene by gene the cells are rounded by systematic sampling (Madow 1949,
Ann. Math. Stat. 20, 333-354): however many cells there are, at most one more or fewer than expected
gets a count, so that the mean stays as well. c_i is the smallest positive value of the control cell
that cell i is made from, where counts were only scaled by cell and transformed.
"""

import numpy as np
from jaxtyping import Float

from wound_jax.errors import UserError

# One for all, so that predictions of different models differ in nothing else.
ROUNDING_SEED = 0

Cells = Float[np.ndarray, "cells genes"]


def rounded_to_counts(cells: Cells, control: Cells, seed: int) -> Cells:
    """Predicted cells whose values below one count are rounded to 0 or one count.

    Args:
        cells: predicted expression, not negative.
        control: the control cells they were made from, row by row.
        seed: of the rounding.

    Returns:
        float32 [cells, genes].

    Raises:
        UserError: the space has negative values, so that nothing in it is a count.
    """
    if min(cells.min(initial=0.0), control.min(initial=0.0)) < 0.0:
        raise UserError(
            "prediction.round_to_counts=true rounds expression to counts, but these cells have "
            "negative values (an embedding, or scaled expression); set it to false."
        )
    rng = np.random.default_rng(seed)
    result = cells.astype(np.float32)
    one_count = np.where(control > 0.0, control, np.inf).min(axis=1).astype(np.float32)
    for gene in range(cells.shape[1]):
        below = np.flatnonzero((result[:, gene] < one_count) & np.isfinite(one_count))
        below = rng.permutation(below)
        share = result[below, gene] / one_count[below]
        result[below, gene] = np.where(_drawn(share, rng), one_count[below], 0.0)
    return result


def _drawn(share: Float[np.ndarray, " cells"], rng: np.random.Generator) -> np.ndarray:
    """A systematic sample: each with its probability, as many in all as expected, up to one."""
    ends = np.floor(np.cumsum(share, dtype=np.float64) + rng.random())
    return np.diff(ends, prepend=0.0) > 0.0
