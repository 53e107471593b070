"""Puts a run together: model, partition, optimiser, devices and compiled steps, from a config."""

from dataclasses import dataclass

from flax import nnx

from wound_jax.arrays import Parameters
from wound_jax.config.schema import RunConfig
from wound_jax.data.spec import DataSpec
from wound_jax.models.functional import init_model
from wound_jax.models.partition import label_parameters
from wound_jax.models.set_transformer import ModelDims


@dataclass(frozen=True)
class Model:
    """A model's structure, initial parameters and their labels."""

    graphdef: nnx.GraphDef
    parameters: Parameters
    labels: dict[str, str]


def model_dims(spec: DataSpec) -> ModelDims:
    """The shapes that the data fix."""
    return ModelDims(
        features=spec.input_width,
        perturbations=len(spec.perturbations),
        replicates=len(spec.replicates),
        timepoints=len(spec.timepoints),
        genes=0 if spec.gene_input else len(spec.genes),
        scalars=len(spec.scalars),
        non_negative=spec.non_negative,
    )


def build_model(config: RunConfig, spec: DataSpec) -> Model:
    """The freshly initialised model of a run."""
    graphdef, parameters = init_model(config.model, model_dims(spec), config.seed)
    return Model(graphdef, parameters, label_parameters(parameters, lora=config.model.lora.enable))
