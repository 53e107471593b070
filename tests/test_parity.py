"""The model computes what the published PyTorch model computes, from the same weights."""

import dataclasses
from functools import partial

import arc_state
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wound_jax.losses.registry import make_loss
from wound_jax.models.functional import init_model, merged, predict
from wound_jax.models.partition import label_parameters, partition
from wound_jax.models.set_transformer import SetInputs
from wound_jax.training.batch import SetBatch
from wound_jax.training.objective import Objective
from wound_jax.training.optimizer import make_optimizer, make_schedule
from wound_jax.training.settings import AdamTraining
from wound_jax.training.step import TrainState, train_step

FOLDERS = [
    "llamabidir_hvg", "llamabidir_gqa", "gpt2bidir_hvg", "gpt2causal_hvg", "gpt2bidir_lora",
    "llamabidir_lora", "gpt2causal_emb_gene_dec",
]  # fmt: skip


def _inputs(recorded: dict, n_sets: int, n_cells: int) -> SetInputs:
    """Their flattened inputs as sets; a set has one perturbation, given one-hot for each cell."""
    one_hot = recorded["pert_emb"].reshape(n_sets, n_cells, -1)
    assert (one_hot == one_hot[:, :1]).all()
    assert (one_hot.max(-1) == 1).all()
    return SetInputs(
        control=jnp.asarray(recorded["ctrl_cell_emb"].reshape(n_sets, n_cells, -1)),
        mask=jnp.ones((n_sets, n_cells), bool),
        perturbation=jnp.asarray(one_hot[:, 0].argmax(-1)),
        timepoint=jnp.zeros(n_sets, int),
        replicate=jnp.zeros((n_sets, n_cells), int),
    )


@pytest.fixture(params=FOLDERS)
def case(request, shared):
    recorded = arc_state.load(shared / "fixtures" / "arc_state" / request.param)
    config, dims = arc_state.model_config(recorded["config"])
    graphdef, ours = init_model(config, dims, seed=0)
    recorded_parameters = arc_state.parameters(recorded["state_dict"], config)
    parameters = {name: jnp.asarray(value) for name, value in recorded_parameters.items()}
    assert set(parameters) == set(ours)
    assert {k: v.shape for k, v in parameters.items()} == {k: v.shape for k, v in ours.items()}
    sizes = recorded["config"]["B"], recorded["config"]["S"]
    return recorded, graphdef, parameters, _inputs(recorded["inputs"], *sizes)


def test_forward_agrees(case):
    recorded, graphdef, parameters, inputs = case
    prediction = predict(graphdef, parameters, inputs)
    flat = prediction.cells.reshape(-1, prediction.cells.shape[-1])
    np.testing.assert_allclose(flat, recorded["outputs"]["preds_f64"], atol=1e-5, rtol=0)
    if prediction.genes is not None:
        genes = prediction.genes.reshape(-1, prediction.genes.shape[-1])
        expected = recorded["outputs"]["pert_cell_counts_preds_f64"]
        np.testing.assert_allclose(genes, expected, atol=1e-5, rtol=0)


def test_masked_cells_equal_a_smaller_set(case):
    """Five real cells and three padded ones give what the published model gives for five cells."""
    recorded, graphdef, parameters, inputs = case
    mask = inputs.mask.at[:, 5:].set(False)
    garbage = inputs.control.at[:, 5:].set(1e3)
    cells = predict(
        graphdef, parameters, dataclasses.replace(inputs, mask=mask, control=garbage)
    ).cells[0, :5]
    expected = recorded["outputs"]["preds_unpadded5_f64"]
    np.testing.assert_allclose(cells, expected, atol=1e-5, rtol=0)


def test_merged_adapters_predict_the_same(case):
    _, graphdef, parameters, inputs = case
    expected = predict(graphdef, parameters, inputs).cells
    cells = predict(*merged(graphdef, parameters), inputs).cells
    np.testing.assert_allclose(cells, expected, atol=1e-5, rtol=0)


def _batch(recorded: dict, inputs: SetInputs) -> SetBatch:
    target = recorded["inputs"]["pert_cell_emb"].reshape(inputs.control.shape)
    genes = recorded["inputs"].get("pert_cell_counts")
    return SetBatch(
        inputs=inputs,
        target=jnp.asarray(target),
        target_genes=None if genes is None else jnp.asarray(genes.reshape(*target.shape[:2], -1)),
        target_mask=inputs.mask,
    )


def test_three_training_steps_agree(case):
    """Losses, gradients, pre-clip norms of the trainable leaves and Adam, step by step.

    Their losses in float64 are the truth; ours are float32. Theirs in float32 are further away,
    because geomloss computes distances without centring the cells.
    """
    recorded, graphdef, parameters, inputs = case
    labels = label_parameters(parameters, lora="lora" in recorded["config"]["name"])
    trainable, frozen = partition(parameters, labels)
    labels = {name: labels[name] for name in trainable}
    assert len(trainable) == len(recorded["config"]["trainable"])
    config = AdamTraining(learning_rate=1e-3, clip_norm=10.0)
    schedule = make_schedule(config, 3)
    optimizer = make_optimizer(config, labels, schedule)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        trainable=trainable,
        frozen=frozen,
        opt_state=optimizer.init(trainable),
    )
    step = jax.jit(
        partial(
            train_step,
            # The fixtures were recorded in evaluation mode: no dropout.
            objective=_WithoutDropout(graphdef, make_loss("energy"), 1.0),
            optimizer=optimizer,
            schedule=schedule,
            labels=labels,
            seed=0,
        )
    )
    batch = _batch(recorded, inputs)
    expected = recorded["train"]
    for loss, norm in zip(expected["losses_f64"], expected["grad_norms_preclip_f64"], strict=False):
        state, metrics = step(state, None, batch)
        np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
        np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-4)
    for name, value in frozen.items():
        np.testing.assert_array_equal(state.frozen[name], value)


class _WithoutDropout(Objective):
    def __call__(self, parameters, batch, key=None, step=None):
        return super().__call__(parameters, batch, None, step)


def test_gradients_at_the_first_step_agree(case):
    recorded, graphdef, parameters, inputs = case
    objective, batch = Objective(graphdef, make_loss("energy"), 1.0), _batch(recorded, inputs)
    gradients = jax.grad(lambda p: objective(p, batch)[0])(parameters)
    config, _ = arc_state.model_config(recorded["config"])
    expected = arc_state.parameters(recorded["grads_step0"], config)
    assert len(expected) == len(recorded["config"]["trainable"])
    for name, gradient in expected.items():
        np.testing.assert_allclose(gradients[name], gradient, atol=2e-5, rtol=1e-4, err_msg=name)
