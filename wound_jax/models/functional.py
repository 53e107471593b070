"""A model as data: its structure once, its parameters as a flat mapping of dotted paths.

Training differentiates, partitions, shards and stores the mapping; the structure is static. This
keeps the step a plain `jax.jit` of a pure function (`nnx.jit` costs milliseconds of Python a call).
"""

from typing import Any, TypeVar

import jax
from flax import nnx

from wound_jax.arrays import Parameters
from wound_jax.models.layers import round_weights
from wound_jax.models.lora import merge_adapters
from wound_jax.models.set_transformer import ModelDims, Prediction, SetInputs, SetTransformer
from wound_jax.models.settings import ModelSettings

Module = TypeVar("Module", bound=nnx.Module)


def split(model: nnx.Module) -> tuple[nnx.GraphDef, Parameters]:
    """A module's static structure, and its parameters by dotted path."""
    graphdef, state = nnx.split(model)
    flat = nnx.to_flat_state(state)
    return graphdef, {".".join(map(str, path)): value.get_value() for path, value in flat}


def bind(graphdef: nnx.GraphDef, parameters: Parameters) -> nnx.Module:
    """The module with that structure and those parameters; the inverse of `split`."""
    flat = [(_path(name), value) for name, value in parameters.items()]
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


def _path(name: str) -> tuple[str | int, ...]:
    return tuple(int(part) if part.isdigit() else part for part in name.split("."))


def init_model(
    config: ModelSettings, dims: ModelDims, seed: int
) -> tuple[nnx.GraphDef, Parameters]:
    """A freshly initialised set transformer, deterministic in `seed`.

    Returns:
        Its structure and its float32 parameters.
    """
    return split(SetTransformer(config, dims, rngs=nnx.Rngs(params=seed)))


def abstract_model(config: ModelSettings, dims: ModelDims) -> tuple[nnx.GraphDef, dict[str, Any]]:
    """What `init_model` gives, with `jax.ShapeDtypeStruct` for arrays: no value is computed."""
    model = nnx.eval_shape(lambda: SetTransformer(config, dims, rngs=nnx.Rngs(params=0)))
    return split(model)


def predict(
    graphdef: nnx.GraphDef, parameters: Parameters, inputs: SetInputs, key: jax.Array | None = None
) -> Prediction:
    """Applies the model; a dropout key switches dropout on."""
    rngs = None if key is None else nnx.Rngs(dropout=key)
    return bind(graphdef, parameters)(inputs, rngs)


def merged(graphdef: nnx.GraphDef, parameters: Parameters) -> tuple[nnx.GraphDef, Parameters]:
    """The same model in the form for inference: what is the same at every call is done once.

    Adapters are folded into the backbone, and weights rounded to the dtype they multiply in.
    """
    model = bind(graphdef, parameters)
    merge_adapters(model)
    round_weights(model)
    return split(model)
