"""The training step: pure, compiled once, the same on any number of devices, blind to padding."""

from dataclasses import replace

import jax
import numpy as np
import optax
import pytest
import tiny_run

from wound_jax.data.sets import SetPlan
from wound_jax.devices.mesh import make_devices
from wound_jax.errors import UserError
from wound_jax.training.batch import SetBatch
from wound_jax.training.setup import build_objective


def objective_of(run, *overrides: str):
    return build_objective(tiny_run.config(*overrides), run.model.graphdef, run.devices)


def arrays(batch) -> SetBatch:
    assert isinstance(batch, SetBatch)
    return batch


@pytest.fixture(scope="module")
def case():
    """Loss and gradient without dropout, parameters, batches of arrays, and three sets."""
    run = tiny_run.new_run("data.location=host")
    objective, plan = objective_of(run), run.plans.epoch(0)
    plan = plan.take(np.argsort(-plan.target_mask.sum(axis=1))[[0, 5, 11]])
    grad = jax.jit(jax.value_and_grad(lambda p, b: objective(p, b)[0]))

    def batch_of(plan: SetPlan, size: int) -> SetBatch:
        (filled,) = plan.batches(size)
        return arrays(run.feed.batch(filled))

    return grad, run.model.parameters, batch_of, plan


def test_the_step_compiles_once():
    run = tiny_run.new_run()
    n = 2 * run.batches_per_epoch + 1
    tiny_run.steps(run, n)
    again = tiny_run.new_run()
    again.state = tiny_run.steps(again, 1)[0]
    tiny_run.steps(again, 2)
    assert run.step._cache_size() == 1
    for batch in run.validation:
        run.evaluate(tiny_run.new_run().state.parameters, run.feed.cells, batch)
    assert len(run.validation) > 1
    assert run.evaluate._cache_size() == 1


def test_the_old_state_is_given_away():
    run = tiny_run.new_run()
    tiny_run.steps(run, 1)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(run.state))


def test_the_step_is_deterministic_and_dropout_follows_the_step():
    run = tiny_run.new_run()
    (state, metrics), (other, repeated) = (tiny_run.steps(tiny_run.new_run(), 3) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, state, other)
    jax.tree.map(np.testing.assert_array_equal, metrics, repeated)
    assert int(state.step) == 3
    run.state = replace(run.state, step=run.state.step + 1)
    _, later = tiny_run.steps(run, 1)
    assert later[0]["loss"] != metrics[0]["loss"]


def test_the_loss_falls():
    """Fifty steps on one batch: what is seen again and again is learned."""
    run = tiny_run.new_run()
    (plan,), state, losses = tiny_run.plans(run, 1), run.state, []
    batch = run.feed.batch(plan)
    for _ in range(50):
        state, metrics = run.step(state, run.feed.cells, batch)
        losses.append(metrics["loss"])
    assert float(losses[-1]) < 0.7 * float(losses[0])


def test_norms_add_up_and_the_rate_is_logged():
    run = tiny_run.new_run()
    _, metrics = tiny_run.steps(run, 2)
    assert {"loss", "ot_loss", "grad_norm", "grad_norm/backbone", "grad_norm/head"} <= set(
        metrics[0]
    )
    divisions = {name.partition("/")[0] for name in metrics[0] if name.startswith("grad_norm")}
    for found in metrics:
        np.testing.assert_allclose(found["lr"], 1e-2, rtol=1e-6)
        # By label, and by whatever else the leaves are divided.
        for division in divisions:
            parts = [v for name, v in found.items() if name.startswith(f"{division}/")]
            assert len(parts) > 2
            np.testing.assert_allclose(found["grad_norm"], np.linalg.norm(parts), rtol=1e-6)


def test_clip_and_norm_see_what_trains_alone():
    """Under LoRA the norm over all gradients would be another one, and clip by another factor."""
    settings = (*tiny_run.LORA, "model.dropout=0", "model.lora.dropout=0", "data.location=host")
    run = tiny_run.new_run(*settings)
    objective, (plan,) = objective_of(run, *settings), tiny_run.plans(run, 1)
    batch = arrays(run.feed.batch(plan))
    gradients = jax.jit(jax.grad(lambda p: objective(p, batch)[0]))(run.model.parameters)
    trained = {name: gradients[name] for name in run.state.trainable}
    state, (metrics,) = tiny_run.steps(run, 1)
    norm, everything = optax.tree.norm(trained), optax.tree.norm(gradients)
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-4)
    assert everything > 1.001 * norm > 0.1
    # After one step the first moment is a tenth of the clipped gradient.
    moments = optax.tree_utils.tree_get_all_with_path(state.opt_state, "mu")
    size = optax.tree.norm([moment for _, moment in moments])
    np.testing.assert_allclose(size, 0.1 * 0.1, rtol=1e-4)


def test_empty_sets_that_fill_a_batch_change_nothing(case):
    grad, parameters, batch_of, plan = case
    value, gradients = grad(parameters, batch_of(plan, 3))
    padded, padded_gradients = grad(parameters, batch_of(plan, 8))
    np.testing.assert_allclose(padded, value, rtol=1e-6)
    for name, gradient in gradients.items():
        found = padded_gradients[name]
        np.testing.assert_allclose(found, gradient, rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_batch_of_empty_sets_has_loss_and_gradients_of_zero(case):
    grad, parameters, batch_of, plan = case
    nothing = replace(
        plan,
        control_mask=np.zeros_like(plan.control_mask),
        target_mask=np.zeros_like(plan.target_mask),
    )
    value, gradients = grad(parameters, batch_of(nothing, 3))
    assert float(value) == 0.0
    assert all((np.asarray(gradient) == 0).all() for gradient in gradients.values())


@pytest.mark.parametrize("garbage", [-1e4, 1e6])
def test_garbage_in_padded_places_changes_nothing(case, garbage):
    grad, parameters, batch_of, plan = case
    batch = batch_of(plan, 3)
    value, gradients = grad(parameters, batch)
    assert not plan.control_mask.all()
    assert not plan.target_mask.all()
    control = np.where(batch.inputs.mask[..., None], batch.inputs.control, np.float32(garbage))
    target = np.where(batch.target_mask[..., None], batch.target, np.float32(garbage))
    dirty = replace(batch, inputs=replace(batch.inputs, control=control), target=target)
    found, found_gradients = grad(parameters, dirty)
    np.testing.assert_allclose(found, value, rtol=1e-6)
    for name, gradient in gradients.items():
        assert np.isfinite(found_gradients[name]).all(), name
        np.testing.assert_allclose(
            found_gradients[name], gradient, rtol=1e-4, atol=1e-6, err_msg=name
        )


def test_a_set_counts_by_its_measured_cells(case):
    grad, parameters, batch_of, plan = case
    sizes = plan.target_mask.sum(axis=1)
    assert len(set(sizes)) > 1
    alone = [grad(parameters, batch_of(plan.take(np.array([i])), 3))[0] for i in range(3)]
    together, _ = grad(parameters, batch_of(plan, 3))
    np.testing.assert_allclose(together, np.average(alone, weights=sizes), rtol=1e-5)


def test_a_set_without_controls_counts_for_nothing(case):
    """Its cells have no prediction to be compared with, and are not in the mean either."""
    grad, parameters, batch_of, plan = case
    alone = replace(plan, control_mask=plan.control_mask & (np.arange(3) > 0)[:, None])
    value, gradients = grad(parameters, batch_of(alone, 3))
    expected, others = grad(parameters, batch_of(plan.take(np.array([1, 2])), 3))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for name, gradient in others.items():
        found = gradients[name]
        np.testing.assert_allclose(found, gradient, rtol=1e-4, atol=1e-6, err_msg=name)


def test_two_devices_compute_what_one_computes():
    one, metrics = tiny_run.steps(tiny_run.new_run(), 4)
    run = tiny_run.new_run("training.devices=2")
    assert run.devices.count == 2
    batch = run.feed.batch(tiny_run.plans(run, 1)[0])
    assert {
        shard.data.shape[0] for leaf in jax.tree.leaves(batch) for shard in leaf.addressable_shards
    } == {2}
    two, of_two = tiny_run.steps(run, 4)
    for expected, found in zip(metrics, of_two, strict=True):
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)
    for name, value in one.parameters.items():
        assert two.parameters[name].sharding.is_fully_replicated
        np.testing.assert_allclose(two.parameters[name], value, atol=1e-5, err_msg=name)


def test_devices_that_do_not_divide_the_batch():
    with pytest.raises(UserError) as error:
        make_devices(2, 5)
    assert str(error.value) == (
        "training.batch_size=5 sets cannot be shared evenly by 2 devices; set "
        "training.batch_size=4 or 6, or change training.devices."
    )
    with pytest.raises(UserError, match=r"set training\.batch_size=2, or change"):
        make_devices("all", 1)


def test_more_devices_than_there_are():
    with pytest.raises(UserError, match=r"training\.devices=3, but jax sees 2 \(cpu\); set"):
        make_devices(3, 6)
    assert make_devices("all", 4).count == 2
    assert make_devices(1, 5).count == 1


def test_a_batch_of_positions_needs_the_cells():
    run = tiny_run.new_run()
    with pytest.raises(TypeError, match="needs the cells"):
        run.step(run.state, None, run.feed.batch(tiny_run.plans(run, 1)[0]))
    assert not run.state.step.is_deleted()
