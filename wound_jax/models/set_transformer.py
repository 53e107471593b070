"""The set transformer: a set of control cells in, the set of cells after the perturbation out.

`h = backbone(perturbation_encoder(p) + control_encoder(c) + embeddings)`, then by `residual`
    output   prediction = c + project_out(h)                 a displacement of each cell
    hidden   prediction = project_out(h + control_encoder(c))  the published form for genes
    none     prediction = project_out(h)
(State Transition model, Adduri et al. 2025). The only cell-to-cell path is attention without
positions, so permuting the cells of a set permutes the prediction.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from wound_jax.arrays import CellFeatures, CellGenes, HostOrDevice, Scalar, pytree
from wound_jax.models.backbones.base import Backbone, backbone_family
from wound_jax.models.heads import GeneDecoder, ScalarEncoder, TimepointEncoder
from wound_jax.models.layers import Embedding, MultilayerPerceptron, linear
from wound_jax.models.lora import attach_adapters
from wound_jax.models.settings import ModelSettings


@dataclass(frozen=True)
class ModelDims:
    """What the data fix about a model's shapes.

    Attributes:
        features: width of the input and of the predicted cells (genes, or embedding dimensions).
        perturbations: number of conditions, the control included.
        replicates: number of training replicates (for the batch embedding).
        timepoints: number of training timepoints (for the timepoint embedding).
        genes: width of the gene decoder's output; 0 where there is none.
        scalars: number of scalar features of the control cells.
        non_negative: whether the predicted space holds no negative value.
    """

    features: int
    perturbations: int
    replicates: int = 0
    timepoints: int = 0
    genes: int = 0
    scalars: int = 0
    non_negative: bool = False


@pytree
@dataclass(frozen=True)
class SetInputs:
    """What the model is given, for each set; `stack` are the seeds, where several train together.

    Attributes:
        control: features of the control cells.
        mask: which of them are real.
        perturbation: code of the condition to predict.
        timepoint: code of the timepoint, -1 where unseen in training.
        replicate: code of each control cell's replicate, -1 where unseen in training.
        time: the timepoint in days; NaN where its label names none.
        scalars: scalar features of the control cells, standardised.
    """

    control: Float[HostOrDevice, "*stack sets cells dims"]
    mask: Bool[HostOrDevice, "*stack sets cells"]
    perturbation: Int[HostOrDevice, "*stack sets"]
    timepoint: Int[HostOrDevice, "*stack sets"]
    replicate: Int[HostOrDevice, "*stack sets cells"]
    time: Float[HostOrDevice, "*stack sets"] | None = None
    scalars: Float[HostOrDevice, "*stack sets cells scalars"] | None = None


@pytree
@dataclass(frozen=True)
class Prediction:
    """What the model returns.

    Attributes:
        cells: predicted cells, one for each control cell.
        genes: their decoded expression, where the model has a gene decoder.
        diagnostics: figures of the model's parts worth logging, without gradient.
    """

    cells: CellFeatures
    genes: CellGenes | None
    diagnostics: dict[str, Scalar]


class SetTransformer(nnx.Module):
    """Maps control cells to perturbed cells, set by set."""

    def __init__(self, config: ModelSettings, dims: ModelDims, *, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.dtype)
        hidden = config.hidden_dim
        mlp = {"dropout": config.dropout, "dtype": dtype, "rngs": rngs}
        self.perturbation_encoder = MultilayerPerceptron(
            dims.perturbations, hidden, hidden, depth=config.encoder_layers, **mlp
        )
        self.control_encoder = linear(dims.features, hidden, dtype=dtype, rngs=rngs)
        if config.batch_embedding:
            self.replicate_embedding = Embedding(dims.replicates, hidden, rngs=rngs)
        if config.timepoint_embedding == "categorical":
            self.timepoint_embedding = Embedding(dims.timepoints, hidden, rngs=rngs)
        if config.timepoint_embedding == "continuous":
            self.timepoint_embedding = TimepointEncoder(hidden, dtype=dtype, rngs=rngs)
        if config.scalars.enable:
            weight = config.scalars.initial_weight
            self.scalar_encoder = ScalarEncoder(
                dims.scalars, hidden, weight, dtype=dtype, rngs=rngs
            )
        self.backbone = _build_backbone(config, dtype, rngs)
        self.project_out = MultilayerPerceptron(
            hidden, hidden, dims.features, depth=config.decoder_layers, **mlp
        )
        if config.decoder.enable:
            self.gene_decoder = GeneDecoder(
                dims.features, dims.genes, config.decoder, dtype=dtype, rngs=rngs
            )
        self.n_perturbations = dims.perturbations
        self.residual = config.residual
        self.rectify = config.output_activation == "relu" or (
            config.output_activation == "auto" and dims.non_negative
        )
        self.batch_embedding = config.batch_embedding
        self.time = config.timepoint_embedding
        self.use_scalars = config.scalars.enable
        self.decode = config.decoder.enable

    def __call__(self, inputs: SetInputs, rngs: nnx.Rngs | None = None) -> Prediction:
        """Predicts one cell for each control cell; `rngs` switches dropout on."""
        control = self.control_encoder(inputs.control)
        x = control + self._condition(inputs, rngs)
        hidden, diagnostics = self.backbone(x, inputs.mask, rngs)
        if self.residual == "hidden":
            hidden = hidden + control
        cells = self.project_out(hidden, rngs).astype(jnp.float32)
        if self.residual == "output":
            cells = inputs.control + cells
        if self.rectify:
            cells = jax.nn.relu(cells)
        if self.use_scalars:
            weight = jax.lax.stop_gradient(self.scalar_encoder.weight_scale[...])
            diagnostics = {**diagnostics, "scalar_weight": weight}
        genes = self.gene_decoder(cells, rngs).astype(jnp.float32) if self.decode else None
        return Prediction(cells=cells, genes=genes, diagnostics=diagnostics)

    def _condition(
        self, inputs: SetInputs, rngs: nnx.Rngs | None
    ) -> Float[Array, "sets #cells hidden"]:
        """The sum of everything a set is told beside its cells."""
        one_hot = jax.nn.one_hot(inputs.perturbation, self.n_perturbations)
        x = self.perturbation_encoder(one_hot, rngs)[:, None, :]
        if self.time == "categorical":
            x = x + self.timepoint_embedding(inputs.timepoint)[:, None, :]
        if self.time == "continuous":
            x = x + self.timepoint_embedding(_given(inputs.time, "time"))[:, None, :]
        if self.use_scalars:
            x = x + self.scalar_encoder(_given(inputs.scalars, "scalars"))
        if self.batch_embedding:
            x = x + self.replicate_embedding(inputs.replicate)
        return x


def _given(values: Any, name: str) -> Array:
    if values is None:
        raise TypeError(f"this model needs SetInputs.{name}")
    return values


def _build_backbone(config: ModelSettings, dtype: jnp.dtype, rngs: nnx.Rngs) -> Backbone:
    family = backbone_family(config)
    backbone = Backbone(family, config, dtype, rngs=rngs)
    if config.lora.enable:
        default = family.lora_targets + (family.lora_mlp_targets if config.lora.adapt_mlp else ())
        targets = default if config.lora.targets is None else config.lora.targets
        attach_adapters(backbone, targets, config.lora, rngs=rngs)
    return backbone
