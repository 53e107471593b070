"""Losses of sets on two devices: the values of one, and no talk between devices in a loop."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from compiled_text import loops, talking

from wound_jax.devices.mesh import Devices, make_devices, per_device
from wound_jax.losses.registry import make_loss
from wound_jax.losses.velocity import transport_rows


def _sets(n_sets: int = 4):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(n_sets, 9, 5)), jnp.float32)
    y = jnp.asarray(rng.normal(1.0, size=(n_sets, 8, 5)), jnp.float32)
    # Sets of very different sizes converge after different numbers of iterations.
    x_mask = jnp.arange(9)[None] < jnp.array([[9], [2], [9], [5]])
    y_mask = jnp.arange(8)[None] < jnp.array([[8], [8], [1], [6]])
    return x, y, x_mask, y_mask


def _gradient(loss):
    def mean(x, y, x_mask, y_mask):
        value = loss(x, y, x_mask, y_mask)
        return value.value.mean(), value

    return jax.jit(jax.grad(mean, has_aux=True))


def _on(devices: Devices, arrays):
    return jax.device_put(arrays, devices.by_set)


@pytest.mark.parametrize("name", ["energy", "sinkhorn", "combined", "mse"])
def test_two_devices_give_the_values_of_one(name):
    arrays = list(_sets())
    if name == "mse":
        arrays[1], arrays[3] = arrays[0] + 1, arrays[2]
    found = []
    for n in (1, 2):
        devices = make_devices(n, 4)
        loss = per_device(make_loss(name), devices)
        found.append(jax.device_get(_gradient(loss)(*_on(devices, tuple(arrays)))))
    chex.assert_trees_all_close(*found, rtol=1e-5, atol=1e-6)


def _compiled(function, devices: Devices) -> str:
    return str(jax.jit(function).lower(*_on(devices, _sets())).compile().as_text())


def _sinkhorn(loss):
    return lambda *arrays: _gradient(loss)(*arrays)


def test_no_collective_inside_the_sinkhorn_loop():
    devices = make_devices(2, 4)
    text = _compiled(_sinkhorn(per_device(make_loss("sinkhorn"), devices)), devices)
    assert loops(text)
    assert not talking(text)


def test_no_collective_inside_the_matching_of_velocities():
    devices = make_devices(2, 4)
    text = _compiled(per_device(transport_rows, devices), devices)
    assert loops(text)
    assert not talking(text)


def test_no_collective_inside_any_loop_of_a_whole_training_step():
    """Both the distance and the matching of velocities iterate; the gradient is summed once."""
    run = tiny_run.new_run("loss.name=sinkhorn", "velocity.enable=true", "training.devices=2")
    batch = run.feed.batch(tiny_run.plans(run, 1)[0])
    step: Any = run.step
    text = str(step.lower(run.state, run.feed.cells, batch).compile().as_text())
    assert len(loops(text)) > 4
    assert "all-reduce" in text
    assert not talking(text)


def test_the_check_sees_a_collective_where_there_is_one():
    """Left to the partitioner, the loop asks both devices whether all sets have converged."""
    devices = make_devices(2, 4)
    assert talking(_compiled(_sinkhorn(make_loss("sinkhorn")), devices))
