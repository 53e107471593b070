"""Several steps at once: the run of single steps, its logs and its states at the same steps."""

import copy
import signal
from itertools import accumulate
from typing import Any

import jax
import numpy as np
import pytest
import tiny_run
from hypothesis import given
from hypothesis import strategies as st

from wound_jax.config import load_config
from wound_jax.errors import UserError
from wound_jax.training.checkpoint import Checkpoints
from wound_jax.training.log import read_metrics
from wound_jax.training.loop import Loop, _dispatches
from wound_jax.training.seeds import SeedsRun

N_STEPS = 11


def rhythm(**settings):
    changes = {"log_every": 4, "val_every": 6, "steps_per_dispatch": 2, **settings}
    return tiny_run.config().training.model_copy(update=changes)


def loop_of(run, folder, **settings) -> Loop:
    return Loop(run, rhythm(**settings), tiny_run.data().spec, folder, progress_bar=False)


def counted(run) -> list[int]:
    """The number of steps of each dispatch of a run, as it trains."""
    counts: list[int] = []

    def noting(real, count):
        def call(state, store, batch):
            counts.append(count if count == 1 else len(jax.tree.leaves(batch)[0]))
            return real(state, store, batch)

        return call

    run.step, run.steps = noting(run.step, 1), noting(run.steps, 0)
    return counts


def assert_same_run(folder, expected) -> None:
    found, one_by_one = read_metrics(folder), read_metrics(expected)
    assert [r["step"] for r in found] == [r["step"] for r in one_by_one]
    for one, other in zip(found, one_by_one, strict=True):
        assert set(one) == set(other)
        for name in set(other) - {"train/cells_per_second"}:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-5, atol=1e-7, err_msg=name)
    like = tiny_run.new_run()
    for slot in ("best", "last"):
        states = []
        for path in (folder, expected):
            with Checkpoints(path, create=False) as checkpoints:
                states.append(checkpoints.restore(slot, like.state, like.devices)[0])
        assert int(states[0].step) == int(states[1].step)
        for name, value in states[1].parameters.items():
            np.testing.assert_allclose(states[0].parameters[name], value, atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """A run of single steps."""
    folder = tmp_path_factory.mktemp("single")
    loop_of(tiny_run.new_run(total_steps=N_STEPS), folder, steps_per_dispatch=1).train()
    return folder


def test_several_steps_at_once_are_the_same_run(single, tmp_path):
    """Logs at 4, 8; validations at 6, 11; the epoch ends in between and cuts nothing."""
    run = tiny_run.new_run(total_steps=N_STEPS)
    assert run.batches_per_epoch not in (2, 4, 6, 8, 10)
    assert run.batches_per_epoch < N_STEPS
    real, counts = run.steps, counted(run)
    loop_of(run, tmp_path).train()
    assert counts == [2, 2, 2, 2, 2, 1]
    assert real._cache_size() == 1
    assert_same_run(tmp_path, single)


def test_an_interrupt_is_seen_after_the_dispatch_and_the_run_goes_on_from_there(single, tmp_path):
    run = tiny_run.new_run(total_steps=N_STEPS)
    real, calls = run.steps, iter(range(1, 100))

    def pressed(*arguments):
        if next(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        return real(*arguments)

    run.steps = pressed
    with pytest.raises(KeyboardInterrupt):
        loop_of(run, tmp_path, steps_per_dispatch=3, log_every=3).train()
    with Checkpoints(tmp_path, create=False) as checkpoints:
        assert checkpoints.step("last") == 6
    loop_of(tiny_run.new_run(total_steps=N_STEPS), tmp_path).train(resume=True)
    records = [
        {k: v for k, v in r.items() if k != "train/cells_per_second"}
        for r in read_metrics(tmp_path)
    ]
    expected = read_metrics(single)
    assert [r["step"] for r in records] == [r["step"] for r in expected]
    for one, other in zip(records, expected, strict=True):
        for name in {"train/loss", "val/loss"} & set(other):
            np.testing.assert_allclose(one[name], other[name], rtol=1e-5)


def test_early_stopping_ends_it_at_the_validation(tmp_path):
    run: Any = tiny_run.new_run(total_steps=N_STEPS)
    losses = iter([1.0, 2.0, 3.0])
    run.validation = [None]
    run.evaluate = lambda *_: ({"loss": np.float32(next(losses))}, np.float32(1.0))
    loop_of(run, tmp_path, early_stopping=1).train()
    trained = [r["step"] for r in read_metrics(tmp_path) if "train/loss" in r]
    assert trained == [1, 2, 3, 4, 5, 6]


def test_two_devices_and_parts_of_batches_at_once():
    still = ("model.dropout=0", "training.devices=2")
    run = tiny_run.new_run(*still, "training.accumulate=2")
    plans = tiny_run.plans(run, 3)
    state, metrics = run.steps(run.state, run.feed.cells, run.feed.batches(plans))
    expected, one_by_one = tiny_run.steps(tiny_run.new_run(*still), 3)
    for i, one in enumerate(one_by_one):
        for name, value in one.items():
            np.testing.assert_allclose(metrics[name][i], value, rtol=2e-5, err_msg=name)
    for name, value in expected.parameters.items():
        np.testing.assert_allclose(state.parameters[name], value, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("devices", [1, 2])
def test_seeds_that_train_together_take_several_steps_too(devices):
    config = tiny_run.config(f"training.devices={devices}")
    run = SeedsRun(config, (1, 2), tiny_run.data())
    plans = run.epoch(0)[:2]
    state, one_by_one = copy.deepcopy(run.state), []
    for plan in plans:
        state, metrics = run.step(state, run.feed.cells, run.feed.batch(plan))
        one_by_one.append(metrics)
    at_once, metrics = run.steps(run.state, run.feed.cells, run.feed.batches(plans))
    for i, one in enumerate(one_by_one):
        for name, value in one.items():
            np.testing.assert_allclose(metrics[name][i], value, rtol=1e-5, err_msg=name)
    for name, value in state.parameters.items():
        np.testing.assert_allclose(at_once.parameters[name], value, atol=1e-5, err_msg=name)


@given(
    start=st.integers(0, 50),
    length=st.integers(0, 60),
    log_every=st.integers(1, 20),
    val_every=st.integers(1, 20),
    most=st.integers(1, 20),
)
def test_no_dispatch_runs_over_a_log_a_validation_or_the_end(
    start, length, log_every, val_every, most
):
    training = rhythm(log_every=log_every, val_every=val_every, steps_per_dispatch=most)
    counts = list(_dispatches(start, start + length, training))
    assert sum(counts) == length
    assert set(counts) <= {1, most}
    ends = set(accumulate(counts, initial=start))
    stops = {
        k
        for k in range(start, start + length + 1)
        if k % log_every == 0 or k % val_every == 0 or k == start + length
    }
    assert stops <= ends


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["training.steps_per_dispatch=4", "data.location=host"],
            r"steps_per_dispatch=4 needs the cells on the device, but data\.location=host: set",
        ),
        (
            ["training.steps_per_dispatch=30"],
            r"never fits between two logs .* set training\.steps_per_dispatch to 20 or fewer",
        ),
    ],
)
def test_where_several_steps_cannot_act_they_are_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        load_config(None, overrides)
