"""The gene decoder: from a cell's embedding to its expression, non-negative.

[Linear, LayerNorm, GELU, Dropout] for each hidden width, then Linear and ReLU (arc-state 0.11).
"""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wound_jax.config.schema import DecoderConfig
from wound_jax.models.layers import dropout, linear


class GeneDecoder(nnx.Module):
    """Decodes embeddings into expression: `[..., dims] -> [..., genes]`."""

    def __init__(
        self, dims: int, genes: int, config: DecoderConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs
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
