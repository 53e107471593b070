"""A batch trained on in parts: the step of the whole batch, in less memory."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import optax
import pytest
import tiny_run
from compiled_text import loops, talking

from wound_jax.devices.mesh import cut_sets, make_devices
from wound_jax.errors import UserError

# Dropout is drawn for each part; without it the step is the same.
STILL = ("model.dropout=0", "velocity.enable=true", "loss.name=combined")


def first_steps(*overrides: str, n: int = 2):
    return tiny_run.steps(tiny_run.new_run(*overrides), n)


@pytest.fixture(scope="module")
def whole():
    return first_steps(*STILL)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("location", ["device", "host"])
def test_parts_make_the_step_of_the_whole_batch(whole, devices, location):
    """With padding and unequal sets, velocities and their confidences; two devices too."""
    state, metrics = first_steps(
        *STILL,
        "training.accumulate=2",
        f"training.devices={devices}",
        f"data.location={location}",
    )
    expected, of_whole = whole
    for found, one in zip(metrics, of_whole, strict=True):
        assert set(found) == set(one)
        for name, value in one.items():
            np.testing.assert_allclose(found[name], value, rtol=2e-5, atol=1e-6, err_msg=name)
    moments, of_one = (
        [leaf for _, leaf in optax.tree_utils.tree_get_all_with_path(s.opt_state, "mu")]
        for s in (state, expected)
    )
    difference = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), moments, of_one)
    assert optax.tree.norm(difference) < 1e-5 * optax.tree.norm(of_one)


def test_the_batches_of_the_test_have_unequal_parts():
    """Otherwise a plain mean over the parts would pass too."""
    run = tiny_run.new_run(*STILL)
    plan = tiny_run.plans(run, 1)[0]
    cells = plan.target_mask.sum(axis=1).reshape(2, -1).sum(axis=1)
    assert cells[0] != cells[1]
    assert not plan.target_mask.all()


def test_each_part_draws_its_own_dropout_and_the_run_stays_deterministic():
    """The same sets as the first part, the second, and both: with one mask all would be equal."""
    overrides = ("training.accumulate=2", "model.dropout=0.5")
    run = tiny_run.new_run(*overrides)
    plan = tiny_run.plans(run, 1)[0].take(np.array([0, 1, 0, 1]))

    def loss(of_first: bool, of_second: bool) -> float:
        there = np.repeat([of_first, of_second], 2)[:, None]
        part = replace(
            plan, control_mask=plan.control_mask & there, target_mask=plan.target_mask & there
        )
        fresh = tiny_run.new_run(*overrides)
        return float(run.step(fresh.state, run.feed.cells, run.feed.batch(part))[1]["loss"])

    first, second, both = loss(True, False), loss(False, True), loss(True, True)
    assert abs(first - second) > 1e-3 * first
    np.testing.assert_allclose(both, (first + second) / 2, rtol=1e-5)
    assert loss(True, True) == both


def test_every_set_is_in_one_part_and_stays_on_its_device():
    sets = np.arange(8)[:, None] * np.ones(3)
    np.testing.assert_array_equal(cut_sets(sets, 4, 1)[..., 0], [[0, 1], [2, 3], [4, 5], [6, 7]])
    # Of two devices the first has the sets 0 to 3.
    np.testing.assert_array_equal(cut_sets(sets, 2, 2)[..., 0], [[0, 1, 4, 5], [2, 3, 6, 7]])
    devices = make_devices(2, 8)
    cut = jax.jit(lambda x: jax.lax.map(lambda part: 2 * part, cut_sets(x, 2, 2)))
    text = str(cut.lower(jax.device_put(sets, devices.by_set)).compile().as_text())
    assert loops(text)
    assert not talking(text)
    assert "all-to-all" not in text
    assert "collective-permute" not in text


def temporary_bytes(accumulate: int) -> int:
    run = tiny_run.new_run(
        "training.batch_size=8", "model.hidden_dim=32", f"training.accumulate={accumulate}"
    )
    (plan, *_) = run.plans.epoch(0).batches(8)
    step: Any = run.step
    compiled = step.lower(run.state, run.feed.cells, run.feed.batch(plan)).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_parts_take_less_memory():
    whole, divided = temporary_bytes(1), temporary_bytes(4)
    assert divided < 0.5 * whole


def test_parts_that_do_not_divide_the_batch():
    with pytest.raises(UserError) as error:
        make_devices(2, 6, 2)
    assert str(error.value) == (
        "training.batch_size=6 sets cannot be shared evenly by 2 devices in 2 parts "
        "(training.accumulate); set training.batch_size=4 or 8, or change training.devices or "
        "training.accumulate."
    )
    assert make_devices(2, 8, 2).count == 2
