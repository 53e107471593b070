"""What the cells of one arm weigh in each draw.

Owns the draws of n units, and the step from units to cells: holder h (a replicate) has n_h cells in
the arm and the weight w_h in a draw, so a weighted mean over cells is a mean of the holders' means
with the shares

    share_h = w_h n_h / sum_k w_k n_k
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int


def draw_weights(n: int, draws: int, rng: np.random.Generator) -> Float[np.ndarray, "rows units"]:
    """Weights of n units that are drawn from one pool.

    n - 1 of them are drawn with replacement and weighted by n / (n - 1) (Rao and Wu 1988, J. Am.
    Stat. Assoc. 83, 231-241). The usual n of n understates the variance of a mean by the factor
    (n - 1) / n, a half where an arm has two replicates on a day; this one is right at every n.

    Args:
        n: number of units; a single one has the weight 1 in all draws.
        draws: number of draws.
        rng: where the draws come from.

    Returns:
        [draws + 1, n]: a row of ones, the sample itself, then the draws; each row has the mean 1.
    """
    if n == 1:
        return np.ones((draws + 1, 1))
    counts = rng.multinomial(n - 1, np.full(n, 1 / n), size=draws)
    return np.concatenate([np.ones((1, n)), counts * (n / (n - 1))])


@dataclass(frozen=True, eq=False)
class ArmWeights:
    """The holders of the cells of one arm.

    Attributes:
        holder: the number of each cell's holder, from 0.
        weights: [rows, holders], weight of each holder's cells in each draw.
    """

    holder: Int[np.ndarray, " cells"]
    weights: Float[np.ndarray, "rows holders"]

    def take(self, cells: Int[np.ndarray, " some"]) -> "ArmWeights":
        """The same for some of the cells, with the holders that these have."""
        found, holder = np.unique(self.holder[cells], return_inverse=True)
        return ArmWeights(holder, self.weights[:, found])

    @cached_property
    def counts(self) -> Int[np.ndarray, " holders"]:
        """Number of cells of each holder."""
        return np.bincount(self.holder, minlength=self.weights.shape[1])

    @cached_property
    def shares(self) -> Float[np.ndarray, "rows holders"]:
        """Share of each holder in the mean over cells; NaN in draws that have no cell."""
        mass = self.weights * self.counts
        with np.errstate(invalid="ignore"):
            return mass / mass.sum(axis=1, keepdims=True)

    def holder_means(self, cells: Float[np.ndarray, "cells genes"]) -> np.ndarray:
        """Mean cell of each holder, float64 [holders, genes]."""
        means = [cells[self.holder == h].mean(axis=0, dtype=np.float64) for h in range(self.n)]
        return np.stack(means)

    @property
    def n(self) -> int:
        """Number of holders."""
        return self.weights.shape[1]


def quadratic_forms(
    matrix: Float[np.ndarray, "holders others"],
    left: Float[np.ndarray, "rows holders"],
    right: Float[np.ndarray, "rows others"],
) -> Float[np.ndarray, " rows"]:
    """left_d' matrix right_d of every row d, float64."""
    return ((left @ matrix) * right).sum(axis=1)
