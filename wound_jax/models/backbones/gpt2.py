"""GPT-2 blocks without positions (Radford et al. 2019): pre-LN, fused q|k|v, tanh GELU, MLP 4x.

Projections carry their Hugging Face names (c_attn, c_proj, c_fc), which is how LoRA targets and
published checkpoints name them.
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
from wound_jax.models.layers import LayerNorm, attend, linear
from wound_jax.models.lora import project
from wound_jax.models.settings import Gpt2Model, ModelSettings


def layer_norm(hidden: int, rngs: nnx.Rngs) -> LayerNorm:
    """Layer norm with epsilon 1e-5, as in GPT-2."""
    return LayerNorm(hidden, epsilon=1e-5, rngs=rngs)


# Recomputed in the backward pass from its input, which is kept anyway.
@jax.checkpoint
def _gelu(x: Array) -> Array:
    """The tanh form of GELU, computed in float32 and rounded once."""
    return jax.nn.gelu(x.astype(jnp.float32), approximate=True).astype(x.dtype)


def _dense(fan_in: int, fan_out: int, dtype, rngs: nnx.Rngs, std: float) -> nnx.Linear:
    zeros = nnx.initializers.zeros
    return linear(fan_in, fan_out, dtype=dtype, rngs=rngs, kernel_init=normal(std), bias_init=zeros)


def _residual_std(config: ModelSettings) -> float:
    """0.02 / sqrt(2 layers): keeps the variance of the residual stream at initialisation."""
    return 0.02 / (2 * config.layers) ** 0.5


class Attention(nnx.Module):
    """Self-attention among the cells of a set, with its pre-norm."""

    def __init__(self, config: ModelSettings, dtype: jnp.dtype, rngs: nnx.Rngs):
        hidden = config.hidden_dim
        self.norm = layer_norm(hidden, rngs)
        self.c_attn = _dense(hidden, 3 * hidden, dtype, rngs, 0.02)
        self.c_proj = _dense(hidden, hidden, dtype, rngs, _residual_std(config))
        self.head_dim = head_dim(config)
        self.causal = config.attention == "causal"

    def __call__(self, x: CellHidden, mask: CellMask, rngs: nnx.Rngs | None) -> CellHidden:
        """The residual branch `[sets, cells, hidden]`."""
        qkv = project(self.c_attn, norm_in_float32(self.norm, x), rngs)
        query, key, value = (
            part.reshape(*x.shape[:2], -1, self.head_dim) for part in jnp.split(qkv, 3, axis=-1)
        )
        out = attend(query, key, value, mask, causal=self.causal)
        return project(self.c_proj, out, rngs)


class Mlp(nnx.Module):
    """Two linear maps with tanh-approximated GELU between them, with their pre-norm."""

    def __init__(self, config: ModelSettings, dtype: jnp.dtype, rngs: nnx.Rngs):
        hidden, width = config.hidden_dim, config.mlp_dim or 4 * config.hidden_dim
        self.norm = layer_norm(hidden, rngs)
        self.c_fc = _dense(hidden, width, dtype, rngs, 0.02)
        self.c_proj = _dense(width, hidden, dtype, rngs, _residual_std(config))

    def __call__(self, x: CellHidden, mask: CellMask, rngs: nnx.Rngs | None) -> CellHidden:
        """The residual branch `[sets, cells, hidden]`."""
        wide = project(self.c_fc, norm_in_float32(self.norm, x), rngs)
        return project(self.c_proj, _gelu(wide), rngs)


@register_backbone("gpt2")
class Gpt2(Gpt2Model):
    """GPT-2 blocks."""

    def family(self) -> BackboneFamily:
        """Its sublayers, norm and LoRA targets."""
        # PEFT matches targets by suffix, so "c_proj" adapts the attention's and the perceptron's.
        return BackboneFamily(
            attention=Attention,
            mlp=Mlp,
            norm=layer_norm,
            lora_targets=("c_attn", "c_proj"),
            lora_mlp_targets=("c_fc",),
        )
