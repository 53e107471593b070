"""Score of a gene list: mean of its genes minus mean of control genes of like expression.

    score(cell) = mean_{g in list} x_g - mean_{g in control genes} x_g

As `scanpy.tl.score_genes` 1.11 (Satija et al. 2015, Nat Biotechnol 33:495): genes are cut into
bins by their mean, and control genes are drawn from the bins of the list. Here the bins and the
draw are those of real control cells, and the same genes then serve real and predicted cells: drawn
anew from predicted cells they would hide a shift that moves all genes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

# Defaults of scanpy.
_PER_BIN = 50
_BINS = 25


@dataclass(frozen=True, eq=False)
class GeneScore:
    """A score with its genes chosen.

    Attributes:
        genes: positions of the list's genes.
        controls: positions of the control genes, none of the list.
    """

    genes: Int[np.ndarray, " listed"]
    controls: Int[np.ndarray, " controls"]

    def __call__(self, cells: Float[np.ndarray, "cells genes"]) -> Float[np.ndarray, " cells"]:
        """Score of each cell, float64 [cells], in the unit of the expression."""
        listed, controls = (
            cells[:, place].mean(axis=1, dtype=np.float64) for place in (self.genes, self.controls)
        )
        return listed - controls


def fit_gene_score(
    genes: Sequence[int], cells: Float[np.ndarray, "cells genes"], seed: int
) -> GeneScore:
    """Choose the control genes of a list.

    Args:
        genes: positions of the list's genes, at least one.
        cells: the real control cells that expression is measured in.
        seed: seed of the draw.

    Returns:
        The score. Its control genes are none where every gene of these bins is in the list.
    """
    listed = np.asarray(genes, dtype=int)
    mean = pd.Series(cells.mean(axis=0, dtype=np.float64))
    per_bin = max(1, int(np.round(len(mean) / (_BINS - 1))))
    bins = (mean.rank(method="min") // per_bin).to_numpy()
    # The generator scanpy uses, so that one seed draws the same genes here and there.
    rng = np.random.RandomState(seed)
    drawn = []
    for one in np.unique(bins[listed]):
        pool = np.flatnonzero(bins == one)
        if len(pool) > _PER_BIN:
            pool = pool[rng.choice(len(pool), _PER_BIN, replace=False)]
        drawn.append(pool)
    return GeneScore(listed, np.setdiff1d(np.concatenate(drawn), listed))
