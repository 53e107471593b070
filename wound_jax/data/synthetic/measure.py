"""From expected expression to molecules: counts, spliced and unspliced, normalised counts.

Counts are negative binomial as a gamma-Poisson mixture: `n ~ Poisson(depth lambda G)` with
`G ~ Gamma(1/phi, phi)`, a gene's own activity in the cell, shared by its spliced and unspliced
molecules and by the cell's counterfactual. Of the counted molecules a share is assigned to spliced
transcripts. From `ds/dt = beta u - gamma s` (La Manno 2018, Nature 560:494) the unspliced mean is
`u = max(ds/dt + gamma s, 0) / beta`.
"""

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from wound_jax.data.synthetic.expression import TARGET_SUM, Expected
from wound_jax.data.synthetic.programs import Programs

# Share of counted molecules that lie across a splice junction or in no doubt in an exon.
SPLICED_SHARE = 0.85
# Cells over which a velocity estimate is averaged (the usual number of neighbours).
NEIGHBOURS = 30


def draw_activity(
    rng: np.random.Generator, n_cells: int, programs: Programs
) -> Float[np.ndarray, "cells genes"]:
    """Gamma factors of mean 1 and variance `phi`, float32."""
    phi = programs.overdispersion
    size = (n_cells, len(phi))
    return rng.standard_gamma(np.broadcast_to(1.0 / phi, size), dtype=np.float32) * phi


def draw_counts(
    rng: np.random.Generator,
    expected: Expected,
    activity: Float[np.ndarray, "cells genes"],
    depth: Float[np.ndarray, " cells"],
) -> sp.csr_matrix:
    """Counted molecules: whole numbers, float32, `[cells, genes]`."""
    mean = expected.share * activity * depth[:, None].astype(np.float32)
    return _sparse(rng.poisson(mean))


def draw_spliced(rng: np.random.Generator, counts: sp.csr_matrix) -> sp.csr_matrix:
    """The counted molecules that are known to be spliced: a binomial share of `counts`."""
    kept = rng.binomial(counts.data.astype(np.int64), SPLICED_SHARE)
    spliced = counts.copy()
    spliced.data = kept.astype(np.float32)
    spliced.eliminate_zeros()
    return spliced


def draw_unspliced(
    rng: np.random.Generator,
    expected: Expected,
    activity: Float[np.ndarray, "cells genes"],
    depth: Float[np.ndarray, " cells"],
    programs: Programs,
) -> sp.csr_matrix:
    """Unspliced molecules in keeping with the velocity: whole numbers, float32."""
    mean = unspliced_share(expected, programs) * activity * depth[:, None].astype(np.float32)
    return _sparse(rng.poisson(SPLICED_SHARE * mean))


def unspliced_share(expected: Expected, programs: Programs) -> Float[np.ndarray, "cells genes"]:
    """Unspliced molecules per spliced molecule of the cell, by gene."""
    inflow = expected.slope + programs.degradation_rate * expected.share
    return np.maximum(inflow, 0.0) / programs.splicing_rate


def log1p_cp10k(counts: sp.csr_matrix) -> sp.csr_matrix:
    """Log1p of counts per 10,000 of the cell, float32."""
    total = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1.0)
    per_entry = np.repeat(TARGET_SUM / total, np.diff(counts.indptr))
    logged = counts.copy()
    logged.data = np.log1p(counts.data * per_entry).astype(np.float32)
    return logged


def velocity_confidence(
    expected: Expected, depth: Float[np.ndarray, " cells"], programs: Programs
) -> Float[np.ndarray, " cells"]:
    """How well a cell's velocity could be estimated from its molecules, in [0, 1].

    With `v = beta u - gamma s` summed over genes, the confidence is `signal / (signal + noise)`:
    `signal = sum v^2` of the true means, `noise = sum (beta^2 u + gamma^2 s) / 30`, the Poisson
    variance of an average over 30 cells.
    """
    scale = (SPLICED_SHARE * depth).astype(np.float32)
    beta, gamma = programs.splicing_rate, programs.degradation_rate
    signal = np.square(expected.slope).sum(axis=1) * scale**2
    variance = beta**2 * unspliced_share(expected, programs) + gamma**2 * expected.share
    noise = variance.sum(axis=1) * scale / NEIGHBOURS
    return (signal / (signal + noise)).astype(np.float32)


def _sparse(molecules: np.ndarray) -> sp.csr_matrix:
    return sp.csr_matrix(molecules.astype(np.float32))
