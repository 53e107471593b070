"""Measurements of synthetic cells: expected expression, molecules, and an embedding.

With log rates `eta` linear in the state, a cell's shares are `lambda = softmax(eta)` and their
velocity is `d lambda / dt = lambda (d eta / dt - sum_g lambda_g d eta_g / dt)`; on the scale of
the expression matrix, `x = log1p(1e4 lambda)` and `dx/dt = 1e4 (d lambda / dt) / (1 + 1e4 lambda)`.

Counts are negative binomial as a gamma-Poisson mixture: `n ~ Poisson(depth lambda G)` with
`G ~ Gamma(1/phi, phi)`, a gene's own activity in the cell, shared by its spliced and unspliced
molecules and by the cell's counterfactual. Of the counted molecules a share is assigned to spliced
transcripts. From `ds/dt = beta u - gamma s` (La Manno 2018, Nature 560:494) the unspliced mean is
`u = max(ds/dt + gamma s, 0) / beta`.

The embedding stands in for a foundation model's: smooth, nonlinear, frozen, with noise.
`e = tanh(((x - c) P / s) W1 + b1) W2 + noise`: `P` are the leading right singular vectors of all
programs (what a principal component analysis of such cells finds), `c` the mean type, `s` the
spread of the types, `W1, b1, W2` random (random features: Rahimi and Recht 2007). The map depends
on the seed, the genes and the width, not on the cells.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from wound_jax.data.synthetic.cells import Cells, mean_cells
from wound_jax.data.synthetic.design import MICE, Ingredient, stream
from wound_jax.data.synthetic.programs import (
    Effects,
    Programs,
    amplitudes,
    coefficients,
    draw_effects,
    draw_programs,
    profile_slopes,
    profiles,
)

TARGET_SUM = 1e4
# Share of counted molecules that lie across a splice junction or in no doubt in an exon.
SPLICED_SHARE = 0.85
# Cells over which a velocity estimate is averaged (the usual number of neighbours).
NEIGHBOURS = 30
# Of the embedding.
N_DIRECTIONS = 64
N_FEATURES = 256
NOISE_SD = 0.05


class Expected(NamedTuple):
    """Noise-free expression of cells.

    Attributes:
        share: each gene's expected share of the cell's molecules; rows sum to 1.
        slope: change of the share per day.
    """

    share: Float[np.ndarray, "cells genes"]
    slope: Float[np.ndarray, "cells genes"]

    def log1p_cp10k(self) -> Float[np.ndarray, "cells genes"]:
        """The shares as log1p of counts per 10,000."""
        return np.log1p(TARGET_SUM * self.share)

    def velocity(self) -> Float[np.ndarray, "cells genes"]:
        """Change of `log1p_cp10k` per day."""
        return TARGET_SUM * self.slope / (1.0 + TARGET_SUM * self.share)


@dataclass(frozen=True)
class Tissue:
    """Everything that decides a cell's expression, apart from the cell.

    Attributes:
        programs: genes and their programs in uninjured skin.
        effects: programs that change with time.
        mouse_sd: standard deviation of a mouse's effect on a gene's log rate.
        effect_scale: factor on the whole burn effect.
    """

    programs: Programs
    effects: Effects
    mouse_sd: float
    effect_scale: float

    def expected(self, cells: Cells) -> Expected:
        """Noise-free expression of `cells`, float32."""
        state = coefficients(cells, self.mouse_sd)
        strength = amplitudes(cells, self.effect_scale)
        course = profiles(cells.time)[:, self.effects.profile]
        steepness = profile_slopes(cells.time)[:, self.effects.profile]
        log_rate = state @ self.programs.loadings
        log_rate += (strength * course).astype(np.float32) @ self.effects.loadings
        log_slope = (strength * steepness).astype(np.float32) @ self.effects.loadings
        share = np.exp(log_rate - log_rate.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        drift = np.einsum("ng,ng->n", share, log_slope)[:, None]
        return Expected(share, share * (log_slope - drift))

    def typical(self) -> Expected:
        """Noise-free expression of the mean sham cell of each type, rows as `TYPES`."""
        return replace(self, mouse_sd=0.0).expected(mean_cells())


def draw_tissue(n_genes: int, mouse_sd: float, effect_scale: float, seed: int) -> Tissue:
    """Draws the programs of a tissue.

    Args:
        n_genes: number of genes.
        mouse_sd: standard deviation of a mouse's effect on a gene's log rate.
        effect_scale: factor on the whole burn effect.
        seed: seed of the set.
    """
    programs = draw_programs(n_genes, seed)
    return Tissue(programs, draw_effects(programs, seed), mouse_sd, effect_scale)


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


@dataclass(frozen=True)
class Embedding:
    """The frozen map from log1p counts per 10,000 to the embedding.

    Attributes:
        centre: expression of the mean type.
        directions: projection, already divided by the spread of the types.
        inner: weights of the first layer.
        bias: bias of the first layer.
        outer: weights of the second layer.
    """

    centre: Float[np.ndarray, " genes"]
    directions: Float[np.ndarray, "genes directions"]
    inner: Float[np.ndarray, "directions features"]
    bias: Float[np.ndarray, " features"]
    outer: Float[np.ndarray, "features dims"]

    def embed(
        self, rng: np.random.Generator, expression: Float[np.ndarray, "cells genes"]
    ) -> Float[np.ndarray, "cells dims"]:
        """Embeds cells, float32; `rng` draws the noise."""
        position = (expression - self.centre) @ self.directions
        features = np.tanh(position @ self.inner + self.bias)
        mapped = features @ self.outer
        return mapped + NOISE_SD * rng.standard_normal(mapped.shape, dtype=np.float32)


def draw_embedding(tissue: Tissue, dims: int, seed: int) -> Embedding:
    """Draws the map.

    Args:
        tissue: gives the genes, the programs and the mean types.
        dims: width of the embedding.
        seed: seed of the set.
    """
    rng = stream(seed, Ingredient.EMBEDDING)
    types = tissue.typical().log1p_cp10k()
    centre = types.mean(axis=0)
    # Mice are left out: their loadings are noise over all genes.
    states = tissue.programs.loadings[len(types) : -len(MICE)]
    moving = [types - centre, states, tissue.effects.loadings]
    _, _, right = np.linalg.svd(np.concatenate(moving), full_matrices=False)
    directions = right[:N_DIRECTIONS].T
    spread = np.sqrt(np.mean(np.square((types - centre) @ directions)))
    width = directions.shape[1]
    inner = rng.standard_normal((width, N_FEATURES)) / np.sqrt(width)
    bias = 0.5 * rng.standard_normal(N_FEATURES)
    outer = rng.standard_normal((N_FEATURES, dims)) / np.sqrt(N_FEATURES)
    parts = (centre, directions / spread, inner, bias, outer)
    return Embedding(*(part.astype(np.float32) for part in parts))
