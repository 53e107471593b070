"""Noise-free expression of cells and its rate of change.

With log rates `eta` linear in the state, a cell's shares are `lambda = softmax(eta)` and their
velocity is `d lambda / dt = lambda (d eta / dt - sum_g lambda_g d eta_g / dt)`. On the scale of
the expression matrix, `x = log1p(1e4 lambda)`, the chain rule gives
`dx/dt = 1e4 (d lambda / dt) / (1 + 1e4 lambda)`.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from wound_jax.data.synthetic.cells import Cells
from wound_jax.data.synthetic.effects import (
    Effects,
    amplitudes,
    draw_effects,
    mean_cells,
    profile_slopes,
    profiles,
)
from wound_jax.data.synthetic.programs import Programs, coefficients, draw_programs

TARGET_SUM = 1e4


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
