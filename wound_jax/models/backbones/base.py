"""What all backbones share: a list of residual sublayers and a final norm.

Each sublayer F (attention and perceptron alternate; each holds its own pre-norm) is joined to the
residual, plainly as `x <- x + F(x)` or by mHC (`wound_jax.models.residual`); a norm ends the stack.
A family says which sublayers and norm it uses and which of its projections LoRA adapts; a backbone
is a class of model settings under `register_backbone` whose method `family` gives it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast, runtime_checkable

import jax.numpy as jnp
from flax import nnx

from wound_jax.arrays import CellHidden, CellMask, Scalar
from wound_jax.models.residual import Maps, make_residual, watch
from wound_jax.models.settings import BACKBONES, ModelSettings

register_backbone = BACKBONES.register


@dataclass(frozen=True)
class BackboneFamily:
    """A kind of backbone.

    Attributes:
        attention: builds the attention sublayer of one block from (config, dtype, rngs).
        mlp: builds the perceptron sublayer of one block from (config, dtype, rngs).
        norm: builds the final norm from (hidden, rngs).
        lora_targets: projections that LoRA adapts by default, by name.
        lora_mlp_targets: those it adapts in addition with `adapt_mlp`.
    """

    attention: Callable[..., nnx.Module]
    mlp: Callable[..., nnx.Module]
    norm: Callable[..., nnx.Module]
    lora_targets: tuple[str, ...]
    lora_mlp_targets: tuple[str, ...]


@runtime_checkable
class HasFamily(Protocol):
    """A backbone: a class of model settings, registered, that says what it is built of."""

    def family(self) -> BackboneFamily:
        """Its sublayers, norm and LoRA targets."""
        ...


def backbone_family(config: ModelSettings) -> BackboneFamily:
    """The backbone family that a model's settings choose."""
    return cast(HasFamily, BACKBONES.build(config)).family()


class Block(nnx.Module):
    """One layer: an attention sublayer and a perceptron sublayer."""

    def __init__(self, attention: nnx.Module, mlp: nnx.Module):
        self.attention = attention
        self.mlp = mlp

    def sublayers(self) -> tuple[nnx.Module, nnx.Module]:
        """The residual branches in the order in which they apply."""
        return self.attention, self.mlp


class Backbone(nnx.Module):
    """The stack of blocks: `[sets, cells, hidden] -> [sets, cells, hidden]`."""

    def __init__(
        self, family: BackboneFamily, config: ModelSettings, dtype: jnp.dtype, *, rngs: nnx.Rngs
    ):
        self.blocks = nnx.List(
            [
                Block(family.attention(config, dtype, rngs), family.mlp(config, dtype, rngs))
                for _ in range(config.layers)
            ]
        )
        self.residual = make_residual(config.mhc, config.hidden_dim, config.layers, rngs=rngs)
        self.norm = family.norm(config.hidden_dim, rngs)
        self.dtype = dtype

    def __call__(
        self, x: CellHidden, mask: CellMask, rngs: nnx.Rngs | None = None
    ) -> tuple[CellHidden, dict[str, Scalar]]:
        """Applies all sublayers; `rngs` switches dropout on.

        Returns:
            The hidden state after the final norm, and the residual's figures for the log.
        """
        maps: Maps = []
        stream = self.residual.enter(x.astype(self.dtype))
        branches = [branch for block in self.blocks for branch in block.sublayers()]
        for index, sublayer in enumerate(branches):
            branch = partial(sublayer, mask=mask, rngs=rngs)
            stream = self.residual.connect(index, stream, branch, maps)
        return self.norm(self.residual.leave(stream)), watch(self.residual, stream, maps, mask)


def normal(std: float):
    """The initialiser N(0, std^2)."""
    return nnx.initializers.normal(std)


def head_dim(config: ModelSettings) -> int:
    """Width of one attention head."""
    return config.hidden_dim // config.heads


def norm_in_float32(norm: nnx.Module, x: CellHidden) -> CellHidden:
    """Applies a norm, which runs in float32, and returns to the compute dtype."""
    return norm(x).astype(x.dtype)
