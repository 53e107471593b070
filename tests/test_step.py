"""One step by itself, on an objective whose gradient is known: rate, norms, parts, dropout keys."""

from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wound_jax.models.set_transformer import SetInputs
from wound_jax.training.batch import SetBatch
from wound_jax.training.objective import Objective, set_weights
from wound_jax.training.step import TrainState, many_steps, train_step

pytestmark = pytest.mark.quick

# Values of the parameters, and the label of each.
TRAINED = {"backbone.a": 1.0, "backbone.b": -2.0, "head.c": 3.0}
LABELS = {"backbone.a": "mhc", "backbone.b": "mhc_no_decay", "head.c": "head"}
FACTORS = {"backbone.a": 1.0, "backbone.b": 2.0, "head.c": -1.0}
SEED = 7


class Linear(Objective):
    """`mean over sets of target * (factors . parameters) * frozen`, and what it was given."""

    def __call__(self, parameters, batch, key=None, step=None):
        assert step is not None
        weight = set_weights(batch)
        of_sets = (batch.target[:, 0, 0] * weight).sum() / jnp.maximum(weight.sum(), 1.0)
        inner = sum(FACTORS[name] * parameters[name] for name in FACTORS)
        loss = of_sets * inner * parameters["frozen"]
        drawn = jnp.zeros(()) if key is None else jax.random.uniform(key)
        return loss, {"loss": loss, "step": step * 1.0, "drawn": drawn, "square": drawn**2}


def batch_of(targets: list[float], sizes: list[int]) -> SetBatch:
    n = len(targets)
    zeros, mask = np.zeros(n, np.int32), np.ones((n, 1), bool)
    control = np.zeros((n, 1, 1), np.float32)
    return SetBatch(
        inputs=SetInputs(control, mask, zeros, zeros, np.zeros((n, 1), np.int32)),
        target=np.tile(np.array(targets, np.float32)[:, None, None], (1, 4, 1)),
        target_genes=None,
        target_mask=np.arange(4) < np.array(sizes)[:, None],
    )


def rate(step) -> Any:
    return 0.1 * (step + 1)


def stepped(batch: SetBatch, at: int = 3, **given: Any) -> tuple[TrainState, dict[str, float]]:
    """The state after step `at` of plain gradient descent, and the metrics."""
    trainable = {name: jnp.asarray(value) for name, value in TRAINED.items()}
    optimizer = optax.sgd(1.0)
    state = TrainState(
        jnp.asarray(at, jnp.int32), trainable, {"frozen": jnp.asarray(2.0)},
        optimizer.init(trainable),
    )  # fmt: skip
    objective = Linear(cast(Any, None), cast(Any, None), 0.0)
    step = partial(train_step, objective=objective, optimizer=optimizer, schedule=rate,
                   labels=LABELS, seed=SEED)  # fmt: skip
    state, metrics = step(state, None, batch, **given)
    return state, {name: float(value) for name, value in metrics.items()}


def test_a_step_goes_down_the_gradient_and_logs_the_rate_it_was_taken_with():
    state, metrics = stepped(batch_of([3.0, 5.0], [1, 3]))
    mean = (1 * 3.0 + 3 * 5.0) / 4
    for name, value in TRAINED.items():
        np.testing.assert_allclose(state.trainable[name], value - 2 * mean * FACTORS[name])
    assert float(state.frozen["frozen"]) == 2.0
    assert int(state.step) == 4
    assert set(state.parameters) == {*TRAINED, "frozen"}
    assert metrics["loss"] == 2 * mean * (1.0 - 4.0 - 3.0)
    assert metrics["lr"] == pytest.approx(0.4)
    assert metrics["step"] == 3.0


def test_norms_are_by_part_and_module_and_a_part_counts_what_is_not_decayed():
    _, metrics = stepped(batch_of([0.5], [2]))
    found = {name: value for name, value in metrics.items() if name.startswith("grad_norm")}
    assert found == pytest.approx(
        {
            "grad_norm": 6**0.5,
            "grad_norm/mhc": 5**0.5,
            "grad_norm/head": 1.0,
            "grad_norm_of/backbone": 5**0.5,
            "grad_norm_of/head": 1.0,
        }
    )


def test_parts_weigh_by_their_cells_and_draw_keys_of_their_own():
    batch = batch_of([3.0, 5.0, -1.0, 2.0], [1, 3, 2, 0])
    whole, of_whole = stepped(batch)
    state, metrics = stepped(batch, accumulate=2)
    for name in TRAINED:
        np.testing.assert_allclose(state.trainable[name], whole.trainable[name], rtol=1e-6)
    for name in ("loss", "step", "lr", "grad_norm"):
        assert metrics[name] == pytest.approx(of_whole[name], rel=1e-6)
    key = jax.random.fold_in(jax.random.key(SEED), 3)
    assert of_whole["drawn"] == pytest.approx(float(jax.random.uniform(key)))
    # The parts hold four cells and two.
    draws = [float(jax.random.uniform(jax.random.fold_in(key, part))) for part in (0, 1)]
    assert metrics["drawn"] == pytest.approx(np.average(draws, weights=[4, 2]))
    squares = np.average(np.square(draws), weights=[4, 2])
    assert metrics["square"] == pytest.approx(squares)
    # Of a part without cells nothing counts, and nothing is divided by zero.
    empty, figures = stepped(batch_of([3.0, 5.0], [0, 0]), accumulate=2)
    assert figures["loss"] == 0.0
    assert float(empty.trainable["head.c"]) == TRAINED["head.c"]


def test_several_steps_at_once_are_the_steps_one_by_one():
    batches = [batch_of([3.0], [1]), batch_of([5.0], [2])]

    def step(state, cells, batch):
        return TrainState(state.step + 1, state.trainable, {}, {}), {"sum": batch.target.sum()}

    start = TrainState(jnp.zeros((), jnp.int32), {}, {}, {})
    both = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
    state, metrics = many_steps(step)(start, None, both)
    assert int(state.step) == 2
    np.testing.assert_array_equal(metrics["sum"], [12.0, 20.0])
