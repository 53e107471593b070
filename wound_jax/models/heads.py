"""Encoders of what a set transformer is told beside expression, and the gene decoder behind it.

categorical timepoint   one learned vector each; an unseen one gets their mean
continuous timepoint    linear map of [sin(2 pi t / P), cos(2 pi t / P)] for periods P of 2 to 256
                        days (as positions in Vaswani et al. 2017), so that an unseen one can be
                        asked for
scalars                 weight * linear map of standardised scalars of each control cell
gene decoder            [Linear, LayerNorm, GELU, Dropout] for each hidden width, then Linear and
                        ReLU (arc-state 0.11): from an embedding to expression, non-negative
"""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wound_jax.models.layers import dropout, linear
from wound_jax.models.settings import DecoderSettings

_PERIODS = 16


class TimepointEncoder(nnx.Module):
    """Sinusoids of a time in days, mapped to the hidden width."""

    def __init__(self, hidden: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.map = linear(2 * _PERIODS, hidden, dtype=dtype, rngs=rngs)

    def __call__(self, time: Float[Array, "sets"]) -> Float[Array, "sets hidden"]:
        """The vector of each timepoint (days after injury)."""
        periods = 2.0 ** jnp.linspace(1.0, 8.0, _PERIODS)
        angle = 2 * jnp.pi * time[:, None] / periods[None]
        return self.map(jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1))


class ScalarEncoder(nnx.Module):
    """A linear map of scalar features, with one learned weight in front."""

    def __init__(
        self,
        scalars: int,
        hidden: int,
        initial_weight: float,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.map = linear(scalars, hidden, dtype=dtype, rngs=rngs)
        self.weight_scale = nnx.Param(jnp.asarray(initial_weight, jnp.float32))

    def __call__(
        self, values: Float[Array, "sets cells scalars"]
    ) -> Float[Array, "sets cells hidden"]:
        """The vector of each cell."""
        return self.weight_scale[...] * self.map(values)


class GeneDecoder(nnx.Module):
    """Decodes embeddings into expression: `[..., dims] -> [..., genes]`."""

    def __init__(
        self, dims: int, genes: int, config: DecoderSettings, *, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        widths = (dims, *config.hidden_dims)
        self.layers = nnx.List(
            [linear(a, b, dtype=dtype, rngs=rngs) for a, b in itertools.pairwise(widths)]
        )
        self.norms = nnx.List(
            [
                nnx.LayerNorm(width, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
                for width in config.hidden_dims
            ]
        )
        self.out = linear(widths[-1], genes, dtype=dtype, rngs=rngs)
        self.dropout = config.dropout

    def __call__(
        self, cells: Float[Array, "... dims"], rngs: nnx.Rngs | None = None
    ) -> Float[Array, "... genes"]:
        """Expression of each cell; `rngs` switches dropout on."""
        x = cells
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = dropout(jax.nn.gelu(norm(layer(x)), approximate=False), self.dropout, rngs)
        return jax.nn.relu(self.out(x))
