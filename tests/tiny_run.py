"""Runs small enough for tests, built once and shared: 600 simulated cells, a model of one layer."""

import copy
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from wound_jax.arrays import Parameters
from wound_jax.config import RunConfig, load_config
from wound_jax.data.prepare import PreparedData, prepare
from wound_jax.data.sets import SetPlan
from wound_jax.devices.mesh import place
from wound_jax.models.functional import init_model, predict
from wound_jax.models.set_transformer import ModelDims, SetInputs
from wound_jax.training.setup import Run
from wound_jax.training.step import TrainState

BATCH = 4
TINY = (
    "data.source=synthetic",
    "data.synthetic.n_cells=600",
    "data.synthetic.n_genes=300",
    "data.synthetic.embedding_dim=16",
    "data.cell_set_len=16",
    "split.kind=replicate",
    "split.controls=shared",
    "model.hidden_dim=8",
    "model.layers=1",
    "model.heads=2",
    "model.encoder_layers=2",
    "model.decoder_layers=1",
    f"training.batch_size={BATCH}",
    "training.learning_rate=1e-2",
)
# Adapters on a frozen backbone, and a clip that acts at every step.
LORA = (
    "model.backbone=gpt2",
    "model.lora.enable=true",
    "model.lora.r=2",
    "training.clip_norm=0.1",
)


def config(*overrides: str) -> RunConfig:
    """The tiny config with changes."""
    return load_config(None, [*TINY, *overrides])


@cache
def data(*overrides: str) -> PreparedData:
    """The cells of a tiny run."""
    return prepare(config(*overrides))


@cache
def _assembled(*overrides: str) -> tuple[Run, Any]:
    run = Run(
        config(*overrides),
        data(*(o for o in overrides if o.startswith(("data", "split", "velocity.enable")))),
    )
    return run, jax.tree.map(np.array, run.state)


def new_run(*overrides: str, total_steps: int | None = None) -> Run:
    """A tiny run at its first step; runs of the same overrides share what is compiled."""
    assembled, state = _assembled(*overrides)
    run = copy.copy(assembled)
    run.state = place(state, run.devices.replicated)
    run.total_steps = total_steps or run.total_steps
    return run


def plans(run: Run, n: int) -> list[SetPlan]:
    """The plans of the first n training batches, epoch after epoch."""
    found: list[SetPlan] = []
    for epoch in range(-(-n // run.batches_per_epoch)):
        found += run.epoch(epoch)
    return found[:n]


def steps(run: Run, n: int) -> tuple[TrainState, list[dict]]:
    """The first n training steps: the state after them, and the metrics of each."""
    state, metrics = run.state, []
    for plan in plans(run, n):
        state, found = run.step(state, run.feed.cells, run.feed.batch(plan))
        metrics.append(found)
    return state, jax.device_get(metrics)


Model = tuple[nnx.GraphDef, Parameters]
DIMS = ModelDims(features=12, perturbations=3, replicates=4, timepoints=3)
SMALL = (
    "model.hidden_dim=16",
    "model.layers=1",
    "model.heads=4",
    "model.encoder_layers=2",
    "model.decoder_layers=2",
)


@cache
def model(*overrides: str, dims: ModelDims = DIMS, seed: int = 0) -> Model:
    """Structure and parameters of a small model apart from any data."""
    return init_model(load_config(None, [*SMALL, *overrides]).model, dims, seed)


# One compilation for all models of one structure, whatever their parameters.
jitted = jax.jit(predict, static_argnums=0)


def cells_of(model: Model, inputs: SetInputs, key: jax.Array | None = None) -> np.ndarray:
    """The predicted cells of each set."""
    return np.array(jitted(*model, inputs, key).cells)


def changed(model: Model, values: Parameters) -> Model:
    """The model with other values of some parameters."""
    assert set(values) <= set(model[1])
    return model[0], {**model[1], **values}


def zeroed(model: Model, prefix: str) -> Model:
    """The model with all parameters below a path set to zero."""
    names = [name for name in model[1] if name.startswith(prefix)]
    assert names
    return changed(model, {name: jnp.zeros_like(model[1][name]) for name in names})


def inputs(n_sets: int = 3, n_cells: int = 8, dims: ModelDims = DIMS, seed: int = 1) -> SetInputs:
    """Random sets without padding."""
    rng = np.random.default_rng(seed)
    return SetInputs(
        control=rng.normal(size=(n_sets, n_cells, dims.features)).astype(np.float32),
        mask=np.ones((n_sets, n_cells), bool),
        perturbation=np.arange(n_sets, dtype=np.int32) % dims.perturbations,
        timepoint=np.arange(n_sets, dtype=np.int32) % max(dims.timepoints, 1),
        replicate=rng.integers(0, max(dims.replicates, 1), (n_sets, n_cells)).astype(np.int32),
    )
