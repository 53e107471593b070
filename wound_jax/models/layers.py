"""Layers that heads and backbones share: linear maps, perceptrons, norms, attention.

Initialisation and numerics follow the published State Transition model (Adduri et al. 2025,
arc-state 0.11): linear maps start from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), weights and biases
alike, and the perceptrons use the exact GELU with dropout behind each hidden activation.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from wound_jax.models.dropout import dropout
from wound_jax.models.products import add_offset, product

Init = Callable[..., Array]

# Added to the scores of cells that are not attended to: their weights are exactly 0.
_NEVER = -1e30


def uniform_fan_in(fan_in: int) -> Init:
    """The initialiser U(-1/sqrt(fan_in), 1/sqrt(fan_in)), for weights and biases."""
    bound = fan_in**-0.5

    def init(key, shape, dtype=jnp.float32, out_sharding=None) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Dense(nnx.Linear):
    """`nnx.Linear` over all leading axes at once.

    As one matrix product of `[rows, fan_in]` with `[fan_in, fan_out]`, XLA's CPU backend computes
    the gradient of the weights 2 to 8 times faster than with separate axes for sets and cells.
    """

    def __call__(
        self, inputs: Float[Array, "... fan_in"], out_sharding: Any = None
    ) -> Float[Array, "... fan_out"]:
        """Applies the map to the last axis."""
        dtype = self.dtype or inputs.dtype
        rows = product(as_rows(inputs).astype(dtype), self.kernel[...])
        if self.bias is not None:
            rows = add_offset(rows, self.bias[...])
        return rows.reshape(*inputs.shape[:-1], rows.shape[-1])


def as_rows(x: Float[Array, "... width"]) -> Float[Array, "rows width"]:
    """All leading axes as one."""
    return x.reshape(-1, x.shape[-1])


def along_last(values: Float[Array, "..."], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The values with as many axes as `x`, along its last: axes are never added in silence."""
    return jnp.expand_dims(values, tuple(range(x.ndim - values.ndim)))


def linear(
    fan_in: int,
    fan_out: int,
    *,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
    use_bias: bool = True,
    kernel_init: Init | None = None,
    bias_init: Init | None = None,
) -> Dense:
    """A linear map `[..., fan_in] -> [..., fan_out]` with float32 parameters.

    Args:
        fan_in: width of the input.
        fan_out: width of the output.
        dtype: dtype of the multiplication (float32 or bfloat16).
        rngs: source of the initial values.
        use_bias: whether an offset is added.
        kernel_init: initialiser of the weights; uniform in the fan-in if None.
        bias_init: initialiser of the offset; uniform in the fan-in if None.
    """
    return Dense(
        fan_in,
        fan_out,
        use_bias=use_bias,
        dtype=dtype,
        param_dtype=jnp.float32,
        kernel_init=kernel_init or uniform_fan_in(fan_in),
        bias_init=bias_init or uniform_fan_in(fan_in),
        rngs=rngs,
    )


def round_weights(module: nnx.Module) -> None:
    """Rounds the weights of every linear map inside a module to its dtype, in place.

    Each call rounds them else; what the map computes is the same to the last bit.
    """
    for _, layer in nnx.iter_modules(module):
        if isinstance(layer, Dense):
            layer.kernel = nnx.Param(layer.kernel[...].astype(layer.dtype))


class MultilayerPerceptron(nnx.Module):
    """Linear maps with GELU and dropout between them: `[..., d_in] -> [..., d_out]`.

    With `depth` 1 it is a single linear map.
    """

    def __init__(
        self,
        d_in: int,
        d_hidden: int,
        d_out: int,
        *,
        depth: int,
        dropout: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        widths = [d_in, *[d_hidden] * (depth - 1), d_out]
        self.layers = nnx.List(
            [linear(a, b, dtype=dtype, rngs=rngs) for a, b in itertools.pairwise(widths)]
        )
        self.dropout = dropout

    def __call__(
        self, x: Float[Array, "... d_in"], rngs: nnx.Rngs | None = None
    ) -> Float[Array, "... d_out"]:
        """Applies the layers; `rngs` switches dropout on."""
        *hidden, last = self.layers
        for layer in hidden:
            x = dropout(jax.nn.gelu(layer(x), approximate=False), self.dropout, rngs)
        return last(x)


class Embedding(nnx.Module):
    """One learned vector for each category; a category unseen in training (-1) gets their mean."""

    def __init__(self, n_categories: int, hidden: int, *, rngs: nnx.Rngs):
        self.table = nnx.Param(jax.random.normal(rngs.params(), (n_categories, hidden)))

    def __call__(self, codes: Array) -> Array:
        """Maps integer codes `[...]` to vectors `[..., hidden]`."""
        table = self.table[...]
        known = jnp.take(table, jnp.maximum(codes, 0), axis=0)
        return jnp.where((codes >= 0)[..., None], known, along_last(table.mean(0), known))


class LayerNorm(nnx.LayerNorm):
    """Layer norm over the last axis, `(x - mean) / sqrt(variance + epsilon) * scale + bias`."""

    scale: nnx.Param
    bias: nnx.Param

    def __call__(self, x: Float[Array, "... width"], *, mask: None = None) -> Array:
        """Normalises in float32."""
        return _layer_norm(x, self.scale[...], self.bias[...], self.epsilon)


class RMSNorm(nnx.RMSNorm):
    """RMS norm over the last axis, `x / sqrt(mean square + epsilon) * scale`."""

    scale: nnx.Param

    def __call__(self, x: Float[Array, "... width"], *, mask: None = None) -> Array:
        """Normalises in float32."""
        return _rms_norm(x, self.scale[...], self.epsilon)


# Recomputed in the backward pass: writing what lies between costs more time than computing it.
@partial(jax.checkpoint, static_argnums=3)
def _layer_norm(x: Array, scale: Array, bias: Array, epsilon: float) -> Array:
    x = x.astype(jnp.float32)
    # In two passes: E[x^2] - E[x]^2 cancels.
    centred = x - x.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(variance + epsilon)
    return normed * along_last(scale, x) + along_last(bias, x)


@partial(jax.checkpoint, static_argnums=2)
def _rms_norm(x: Array, scale: Array, epsilon: float) -> Array:
    x = x.astype(jnp.float32)
    normed = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + epsilon)
    return normed * along_last(scale, x)


def attend(
    query: Float[Array, "sets cells heads head_dim"],
    key: Float[Array, "sets cells kv_heads head_dim"],
    value: Float[Array, "sets cells kv_heads head_dim"],
    mask: Bool[Array, "sets cells"],
    *,
    causal: bool,
) -> Float[Array, "sets cells heads*head_dim"]:
    """Scaled dot-product attention among the real cells of each set.

    Query heads share key and value heads in consecutive groups. Cells outside `mask` are never
    attended to. The softmax runs in float32. There is no positional term, so that without `causal`
    the map is equivariant to permutations of the cells.
    """
    sets, cells, kv_heads, width = key.shape
    grouped = query.reshape(sets, cells, kv_heads, -1, width).transpose(0, 2, 3, 1, 4)
    # One batch axis, sets times heads, and the queries of a group as further rows: products of
    # plain matrices without a transposition are what XLA multiplies fast.
    rows = grouped.reshape(sets * kv_heads, -1, width)
    keys, values = (x.transpose(0, 2, 1, 3).reshape(-1, cells, width) for x in (key, value))
    scores = jnp.einsum("bqd,bkd->bqk", rows, keys, preferred_element_type=jnp.float32)
    allowed = jnp.repeat(mask, kv_heads, axis=0)[:, None, :]
    if causal:
        behind = jnp.arange(rows.shape[1])[:, None] % cells >= jnp.arange(cells)[None]
        allowed &= behind[None]
    scores = scores * width**-0.5 + jnp.where(allowed, 0.0, _NEVER)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    # Divided by their sum after the product, which is half as wide as the weights.
    mean = jnp.einsum(
        "bqk,bkd->bqd", weights.astype(values.dtype), values, preferred_element_type=jnp.float32
    )
    mean = (mean / weights.sum(-1, keepdims=True)).astype(values.dtype)
    return mean.reshape(*grouped.shape).transpose(0, 3, 1, 2, 4).reshape(sets, cells, -1)
