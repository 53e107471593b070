"""Doubly stochastic mixing of the features of one stream: the legacy form of hyper-connections.

    x' = (1 - g) x + g H x + F(x),        H = SK(logits) over the `hidden` features, g = 0 at first

Legacy, because it mixes along the wrong axis. Features are coordinates with meanings of their own,
while a doubly stochastic matrix averages: with `q = exp(logit)` everywhere off the diagonal, one
application leaves `((1 - q) / (1 + (d - 1) q))^2` of the variance across `d` features. At `d = 328`
and a logit of -8, 8 layers leave 0.19 of it. The streams of `hyper_connection` give the mixing an
axis of its own instead. This form remains for comparison with runs that used it.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wound_jax.arrays import CellHidden
from wound_jax.models.mhc.doubly_stochastic import sinkhorn_knopp


class FeatureMaps(NamedTuple):
    """The mixing of the features as diagnostics read it, in float32.

    Attributes:
        h_res: `(1 - g) I + g H`, one matrix for all tokens; axes (1, 1, output feature, input).
    """

    h_res: Float[Array, "1 1 hidden hidden"]


class FeatureMixing(nnx.Module):
    """Legacy residual with doubly stochastic mixing of the features (module docstring).

    The logits off the diagonal start at `-(ln hidden + 6)`, which keeps the mass off the diagonal
    at `exp(-6)` however wide the stream is; `g` starts at 0, the plain residual. For `g` in [0, 1]
    the mixing is doubly stochastic; beyond, its rows and columns still sum to one.

    Gradients: at the first step `g` moves and the logits cannot (`g = 0`); they follow.
    """

    def __init__(self, hidden: int, iterations: int, *, rngs: nnx.Rngs):
        """Lay out the parameters `logits` [hidden, hidden] and `g`, both float32.

        Args:
            hidden: width of the stream.
            iterations: Sinkhorn rounds, at least 1.
            rngs: taken as every module takes it; no initial value is random.
        """
        del rngs
        self.iterations = iterations
        off_diagonal = -(math.log(hidden) + 6)
        self.logits = nnx.Param(off_diagonal * (1 - jnp.eye(hidden, dtype=jnp.float32)))
        self.g = nnx.Param(jnp.zeros((), jnp.float32))

    def __call__(
        self, x: CellHidden, sublayer: Callable[[CellHidden], CellHidden]
    ) -> tuple[CellHidden, FeatureMaps]:
        """Carry the single stream over the sublayer.

        Args:
            x: the hidden state.
            sublayer: the branch alone. One that adds its own residual would double the signal at
                every layer.

        Returns:
            The new hidden state in the dtype of `x`, and the mixing (float32).
        """
        g = self.g[...]
        h = sinkhorn_knopp(self.logits[...], self.iterations)
        mixing = (1 - g) * jnp.eye(h.shape[0], dtype=h.dtype) + g * h
        mixed = jnp.einsum("ij,sbj->sbi", h, x.astype(h.dtype), precision=jax.lax.Precision.HIGHEST)
        new = (1 - g) * x + g * mixed + sublayer(x)
        return new.astype(x.dtype), FeatureMaps(h_res=mixing[None, None])
