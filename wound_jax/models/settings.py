"""Settings of the model: `model`, by its backbone, with LoRA, mHC, scalar inputs and decoder."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from wound_jax.registry import (
    ActsWith,
    Fraction,
    Indices,
    Names,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Section,
    Variant,
    Variants,
    Widths,
)


class LoraSettings(Section):
    """Low-rank adapters on the backbone (arXiv 2106.09685)."""

    enable: bool = False
    r: PositiveInt = 16
    alpha: PositiveFloat = 32.0
    dropout: Fraction = 0.05
    rslora: bool = False
    # Named targets are the whole list already.
    adapt_mlp: Annotated[bool, ActsWith("targets", (None,))] = False
    # Names of the projections to adapt; null takes the backbone's own default.
    targets: Names | None = None

    def problems(self) -> Iterator[str]:
        """Nothing to adapt."""
        if self.enable and self.targets == ():
            yield (
                "model.lora.targets is empty: nothing would be adapted. Name projections, or set "
                "model.lora.targets=null for the backbone's own."
            )


Streams = ActsWith("mixing", ("streams",))


class MhcSettings(Section):
    """Manifold-constrained hyper-connections (arXiv 2512.24880) in place of the plain residual."""

    enable: bool = False
    mixing: Literal["streams", "features"] = "streams"
    streams: Annotated[int, Field(ge=2, le=16), Streams] = 4
    h_res: Annotated[Literal["sinkhorn", "birkhoff", "identity"], Streams] = "sinkhorn"
    sinkhorn_iters: PositiveInt = 10
    # Layers whose attention and MLP are joined by mHC; null takes all.
    layer_indices: Indices | None = None
    # Off the diagonal of H_res at the start. -8 is nearer to no mixing, but the gradient of the
    # mixing goes with the mass there, about exp(residual_logit).
    residual_logit: Annotated[
        float, Field(lt=0.0), Streams, ActsWith("h_res", ("sinkhorn", "birkhoff"))
    ] = -4.0
    # Recompute the maps in the backward pass: less memory, more time.
    remat: Annotated[bool, Streams] = False

    def problems(self) -> Iterator[str]:
        """No layer, or more permutations than can be mixed."""
        if self.enable and self.layer_indices == ():
            yield (
                "model.mhc.layer_indices is empty: name layers, null for all, or mhc.enable=false."
            )
        permutes = self.mixing == "streams" and self.h_res == "birkhoff"
        if self.enable and permutes and self.streams > 4:
            yield (
                f"model.mhc.h_res=birkhoff mixes all permutations of {self.streams} streams; "
                "set model.mhc.streams to 4 or fewer, or model.mhc.h_res=sinkhorn."
            )


class ScalarSettings(Section):
    """Scalar features of the control cells as a further input."""

    enable: bool = False
    # Numeric obs columns.
    columns: Names = ("velocity_magnitude", "velocity_pseudotime", "velocity_confidence")
    # Where the learned weight in front of them starts.
    initial_weight: PositiveFloat = 0.1

    def problems(self) -> Iterator[str]:
        """No column."""
        if self.enable and not self.columns:
            yield (
                "model.scalars.columns is empty: name obs columns, or set "
                "model.scalars.enable=false."
            )


class DecoderSettings(Section):
    """The gene decoder, for runs whose input is an embedding."""

    enable: bool = False
    hidden_dims: Widths = (1024, 1024, 512)
    dropout: Fraction = 0.1
    weight: NonNegativeFloat = 1.0


class ModelSettings(Variant):
    """The set transformer; a backbone adds its own keys."""

    backbone: str = ""
    hidden_dim: PositiveInt = 512
    layers: PositiveInt = 8
    heads: PositiveInt = 8
    mlp_dim: PositiveInt | None = None
    attention: Literal["bidirectional", "causal"] = "bidirectional"
    encoder_layers: PositiveInt = 4
    decoder_layers: PositiveInt = 4
    dropout: Fraction = 0.1
    residual: Literal["output", "hidden", "none"] = "output"
    output_activation: Literal["auto", "relu", "none"] = "auto"
    batch_embedding: bool = False
    # categorical: a vector a timepoint; continuous: sinusoids of the time in days, so that any one
    # can be asked.
    timepoint_embedding: Literal["none", "categorical", "continuous"] = "none"
    dtype: Literal["float32", "bfloat16"] = "float32"
    lora: LoraSettings = LoraSettings()
    mhc: MhcSettings = MhcSettings()
    scalars: ScalarSettings = ScalarSettings()
    decoder: DecoderSettings = DecoderSettings()

    def problems(self) -> Iterator[str]:
        """Sizes that do not fit each other."""
        if self.hidden_dim % self.heads:
            yield (
                f"model.hidden_dim={self.hidden_dim} is not divisible by model.heads={self.heads}: "
                "each head takes an equal share."
            )
        outside = [i for i in self.mhc.layer_indices or () if i >= self.layers]
        if self.mhc.enable and outside:
            yield (
                f"model.mhc.layer_indices names {outside}, but the model has layers 0 to "
                f"{self.layers - 1} (model.layers={self.layers})."
            )


BACKBONES = Variants("backbone", ModelSettings, tag="backbone", method="family")


@BACKBONES.declare("llama", "wound_jax.models.backbones.llama")
class LlamaModel(ModelSettings):
    """Llama blocks; key and value heads may be shared among query heads."""

    kv_heads: PositiveInt | None = None

    def problems(self) -> Iterator[str]:
        """Sizes that do not fit each other."""
        yield from super().problems()
        if self.kv_heads and self.heads % self.kv_heads:
            yield (
                f"model.heads={self.heads} is not divisible by model.kv_heads={self.kv_heads}: "
                "each key and value head serves an equal number of heads."
            )


@BACKBONES.declare("gpt2", "wound_jax.models.backbones.gpt2")
class Gpt2Model(ModelSettings):
    """GPT-2 blocks."""
