"""Llama blocks without rotary positions (Touvron et al. 2023): RMSNorm, SiLU gate, no biases.

Projections carry their Hugging Face names (q_proj, ..., down_proj). Grouped-query attention
(arXiv 2305.13245) shares each key and value head among `heads / kv_heads` query heads.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from wound_jax.arrays import CellHidden, CellMask
from wound_jax.models.backbones.base import (
    BackboneFamily,
    head_dim,
    norm_in_float32,
    normal,
    register_backbone,
)
from wound_jax.models.layers import RMSNorm, attend, linear
from wound_jax.models.lora import project
from wound_jax.models.settings import LlamaModel


def rms_norm(hidden: int, rngs: nnx.Rngs) -> RMSNorm:
    """RMS norm with epsilon 1e-6, as in Llama."""
    return RMSNorm(hidden, epsilon=1e-6, rngs=rngs)


@jax.checkpoint
def _gated(gate: Array, up: Array) -> Array:
    """`silu(gate) up` in float32, rounded once; recomputed in the backward pass."""
    wide = jax.nn.silu(gate.astype(jnp.float32)) * up.astype(jnp.float32)
    return wide.astype(gate.dtype)


def _dense(fan_in: int, fan_out: int, dtype, rngs: nnx.Rngs) -> nnx.Linear:
    return linear(fan_in, fan_out, dtype=dtype, rngs=rngs, use_bias=False, kernel_init=normal(0.02))


class Attention(nnx.Module):
    """Grouped-query self-attention among the cells of a set, with its pre-norm."""

    def __init__(self, config: LlamaModel, dtype: jnp.dtype, rngs: nnx.Rngs):
        hidden, width = config.hidden_dim, head_dim(config)
        kv_width = (config.kv_heads or config.heads) * width
        self.norm = rms_norm(hidden, rngs)
        self.q_proj = _dense(hidden, hidden, dtype, rngs)
        self.k_proj = _dense(hidden, kv_width, dtype, rngs)
        self.v_proj = _dense(hidden, kv_width, dtype, rngs)
        self.o_proj = _dense(hidden, hidden, dtype, rngs)
        self.head_dim = width
        self.causal = config.attention == "causal"

    def __call__(self, x: CellHidden, mask: CellMask, rngs: nnx.Rngs | None) -> CellHidden:
        """The residual branch `[sets, cells, hidden]`."""
        x = norm_in_float32(self.norm, x)
        query, key, value = (
            project(layer, x, rngs).reshape(*x.shape[:2], -1, self.head_dim)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        return project(self.o_proj, attend(query, key, value, mask, causal=self.causal), rngs)


class Mlp(nnx.Module):
    """The gated perceptron `down(silu(gate(x)) * up(x))`, with its pre-norm."""

    def __init__(self, config: LlamaModel, dtype: jnp.dtype, rngs: nnx.Rngs):
        hidden, width = config.hidden_dim, config.mlp_dim or 4 * config.hidden_dim
        self.norm = rms_norm(hidden, rngs)
        self.gate_proj = _dense(hidden, width, dtype, rngs)
        self.up_proj = _dense(hidden, width, dtype, rngs)
        self.down_proj = _dense(width, hidden, dtype, rngs)

    def __call__(self, x: CellHidden, mask: CellMask, rngs: nnx.Rngs | None) -> CellHidden:
        """The residual branch `[sets, cells, hidden]`."""
        x = norm_in_float32(self.norm, x)
        gate, up = (project(layer, x, rngs) for layer in (self.gate_proj, self.up_proj))
        return project(self.down_proj, _gated(gate, up), rngs)


@register_backbone("llama")
class Llama(LlamaModel):
    """Llama blocks."""

    def family(self) -> BackboneFamily:
        """Its sublayers, norm and LoRA targets."""
        return BackboneFamily(
            attention=Attention,
            mlp=Mlp,
            norm=rms_norm,
            lora_targets=("q_proj", "k_proj", "v_proj", "o_proj"),
            lora_mlp_targets=("gate_proj", "up_proj", "down_proj"),
        )
