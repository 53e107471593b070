"""The loop: resumed equals straight through, and nothing it saves or logs is lost or wrong."""

import json
import shutil
import signal
import struct
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny_run
from tensorboardX.proto import event_pb2

from wound_jax.errors import UserError
from wound_jax.training.checkpoint import Checkpoints
from wound_jax.training.log import read_metrics
from wound_jax.training.loop import HeldInterrupt, Loop, Progress

EVENTS: Any = event_pb2
N_STEPS, VAL_EVERY = 10, 3
RHYTHM = {"log_every": 2, "val_every": VAL_EVERY}


def loop_of(run, folder: Path, **settings) -> Loop:
    training = tiny_run.config().training.model_copy(update={**RHYTHM, **settings})
    return Loop(run, training, tiny_run.data().spec, folder, progress_bar=False)


def fresh(*overrides):
    return tiny_run.new_run(*overrides, total_steps=N_STEPS)


def saved(folder: Path, slot: str, *overrides):
    """The state and the progress in a slot, as arrays of the host."""
    run = tiny_run.new_run(*overrides)
    with Checkpoints(folder, create=False) as checkpoints:
        state, progress = checkpoints.restore(slot, run.state, run.devices)
    return jax.tree.map(np.asarray, state), progress


def step_of(folder: Path, slot: str) -> int:
    with Checkpoints(folder, create=False) as checkpoints:
        return checkpoints.step(slot)


def records(folder: Path) -> list[dict]:
    """The log without the one figure that is no function of the seed."""
    return [
        {name: v for name, v in record.items() if name != "train/cells_per_second"}
        for record in read_metrics(folder)
    ]


def on_call(run, n: int, action):
    """Lets the run's n-th step pass through `action(step)`, which makes the call."""
    real, calls = run.step, iter(range(1, 10_000))
    run.step = lambda *given: action(real, *given) if next(calls) == n else real(*given)
    return run


def interrupt_before(real, *given):
    raise KeyboardInterrupt


def press_after(times: int):
    """Ctrl-C while a step is in flight: the old state is given away already."""

    def action(real, *given):
        out = real(*given)
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
        return out

    return action


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that went straight through."""
    folder = tmp_path_factory.mktemp("straight")
    loop_of(fresh(), folder).train()
    return folder


def test_what_a_run_logs(straight):
    logged = read_metrics(straight)
    trained = [r for r in logged if "train/loss" in r]
    assert [r["step"] for r in trained] == list(range(1, N_STEPS + 1))
    assert {"train/ot_loss", "train/grad_norm", "train/lr"} <= set(trained[0])
    validated = [r for r in logged if "val/loss" in r]
    assert [r["step"] for r in validated] == [0, 3, 6, 9, 10]
    rates = [r for r in logged if "train/cells_per_second" in r]
    # Once for each time that pending figures were fetched: every 2 steps, before each validation.
    assert [r["step"] for r in rates] == [2, 3, 4, 6, 8, 9, 10]
    assert all(r["train/cells_per_second"] > 0 for r in rates)
    assert list((straight / "tb").glob("events*"))


@pytest.mark.parametrize("k", [0, 1, 4, 9])
def test_resumed_at_a_step_equals_straight_through(straight, tmp_path, k):
    """Bit for bit: dropout, plans, Adam's moments, best and last, and every logged figure."""
    with pytest.raises(KeyboardInterrupt):
        loop_of(on_call(fresh(), k + 1, interrupt_before), tmp_path).train()
    assert step_of(tmp_path, "last") == k
    assert [r["step"] for r in records(tmp_path) if "train/loss" in r] == list(range(1, k + 1))
    loop_of(fresh(), tmp_path).train(resume=True)
    assert records(tmp_path) == records(straight)
    for slot in ("best", "last"):
        assert step_of(tmp_path, slot) == step_of(straight, slot)
        (state, progress), (expected, expected_progress) = (
            saved(folder, slot) for folder in (tmp_path, straight)
        )
        jax.tree.map(np.testing.assert_array_equal, state, expected)
        assert progress == expected_progress


def test_a_resumed_run_writes_over_what_was_logged_after_its_checkpoint(straight, tmp_path):
    """A crash leaves a log that is ahead of the checkpoint, and a line cut short."""
    with pytest.raises(KeyboardInterrupt):
        loop_of(on_call(fresh(), 5, interrupt_before), tmp_path).train()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "train/loss": 99.0}\n{"step": 6, "train/lo')
    assert read_metrics(tmp_path)[-1] == {"step": 5, "train/loss": 99.0}
    loop_of(fresh(), tmp_path).train(resume=True)
    assert records(tmp_path) == records(straight)


def test_resuming_a_finished_run_changes_nothing(straight, tmp_path):
    loop_of(fresh(), tmp_path).train()
    before = (tmp_path / "metrics.jsonl").read_text()
    progress = loop_of(on_call(fresh(), 1, interrupt_before), tmp_path).train(resume=True)
    assert (tmp_path / "metrics.jsonl").read_text() == before
    assert progress.best_step == step_of(straight, "best")


@pytest.mark.parametrize("there", [1, 2])
def test_a_checkpoint_moves_between_one_and_two_devices(straight, tmp_path, there):
    """Every bit is restored; from there on losses agree, as sums differ in their order alone."""
    back = f"training.devices={3 - there}"
    with pytest.raises(KeyboardInterrupt):
        loop_of(on_call(fresh(f"training.devices={there}"), 6, interrupt_before), tmp_path).train()
    kept, _ = saved(tmp_path, "last", f"training.devices={there}")
    jax.tree.map(np.testing.assert_array_equal, kept, saved(tmp_path, "last", back)[0])
    loop_of(fresh(back), tmp_path).train(resume=True)
    for found, one in zip(records(tmp_path), records(straight), strict=True):
        assert set(found) == set(one)
        for name in {"step", "train/loss", "val/loss"} & set(one):
            np.testing.assert_allclose(found[name], one[name], rtol=1e-5)


def test_ctrl_c_in_mid_step_saves_the_state_after_it(straight, tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        loop_of(on_call(fresh(), 5, press_after(1)), tmp_path).train()
    assert signal.getsignal(signal.SIGINT) is handler
    assert step_of(tmp_path, "last") == 5
    loop_of(fresh(), tmp_path).train(resume=True)
    assert records(tmp_path) == records(straight)


def test_a_second_ctrl_c_stops_at_once_and_leaves_the_checkpoint_before(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        loop_of(on_call(fresh(), 5, press_after(2)), tmp_path).train()
    assert step_of(tmp_path, "last") == VAL_EVERY


def test_an_interrupt_is_held_in_the_main_thread_only():
    handler = signal.getsignal(signal.SIGINT)

    def elsewhere():
        with HeldInterrupt() as interrupt:
            interrupt.check()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is handler


def scripted(run, losses):
    """Validations that return these losses, one each."""
    values = iter(losses)
    run.validation = [None]
    run.evaluate = lambda *_: ({"loss": np.float32(next(values))}, np.float32(1.0))
    return run


def test_early_stopping_after_validations_that_are_no_better(tmp_path):
    run = scripted(fresh(), [5.0, 4.0, 4.0, 4.5, 0.0])
    progress = loop_of(run, tmp_path, early_stopping=2).train()
    assert progress == Progress(best_loss=4.0, best_step=3, worse=2)
    assert (step_of(tmp_path, "best"), step_of(tmp_path, "last")) == (3, 9)
    # It stays stopped: straight through it would have gone no further.
    run = scripted(on_call(fresh(), 1, interrupt_before), [])
    assert loop_of(run, tmp_path, early_stopping=2).train(resume=True) == progress


def test_best_is_the_lowest_validation_loss_and_last_the_last_step(straight):
    validated = {r["step"]: r["val/loss"] for r in records(straight) if "val/loss" in r}
    assert step_of(straight, "best") == min(validated, key=validated.__getitem__)
    assert step_of(straight, "last") == N_STEPS
    _, progress = saved(straight, "last")
    assert progress["best_loss"] == min(validated.values())


def test_without_validation_cells_the_latest_state_is_the_best(tmp_path):
    run = fresh()
    run.validation = []
    assert loop_of(run, tmp_path).train() == Progress()
    assert step_of(tmp_path, "best") == step_of(tmp_path, "last") == N_STEPS
    assert not [r for r in records(tmp_path) if "val/loss" in r]
    with pytest.raises(UserError, match=r"training\.early_stopping=2 needs validation cells"):
        loop_of(run, tmp_path, early_stopping=2)


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_a_figure_that_is_not_finite_ends_the_run_before_it_is_saved(tmp_path, name):
    def spoil(real, *given):
        state, metrics = real(*given)
        return state, {**metrics, name: np.float32("nan")}

    with pytest.raises(UserError, match=rf"train/{name} is nan at step 5; .* training\.learning_"):
        loop_of(on_call(fresh(), 5, spoil), tmp_path).train()
    assert step_of(tmp_path, "last") == VAL_EVERY
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert (last["step"], last[f"train/{name}"]) == (5, None)


def test_a_validation_loss_that_is_not_finite_is_never_the_best(tmp_path):
    with pytest.raises(UserError, match="val/loss is nan at step 3"):
        loop_of(scripted(fresh(), [5.0, float("nan")]), tmp_path).train()
    assert step_of(tmp_path, "best") == 0


def test_validation_metrics_weigh_every_cell_equally(tmp_path):
    run = fresh()
    found = loop_of(run, tmp_path).validation_metrics(run.state)
    config, data = tiny_run.config(), tiny_run.data()
    plans = data.plan_builder("val", config.data, config.seed).fixed().batches(tiny_run.BATCH)
    cells = [int(plan.target_mask.sum()) for plan in plans[: config.training.val_batches]]
    losses = [run.evaluate(run.state.parameters, run.feed.cells, b)[0] for b in run.validation]
    assert len(cells) == len(losses) > 1
    for name in found:
        expected = np.average([float(loss[name]) for loss in losses], weights=cells)
        np.testing.assert_allclose(found[name], expected, rtol=1e-6)


def test_cells_on_the_host_train_as_cells_on_the_device():
    resident, of_resident = tiny_run.steps(fresh(), 4)
    run = fresh("data.location=host")
    assert run.feed.cells is None
    state, metrics = tiny_run.steps(run, 4)
    for found, expected in zip(metrics, of_resident, strict=True):
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)
    for name, value in resident.parameters.items():
        np.testing.assert_allclose(state.parameters[name], value, atol=1e-5, err_msg=name)
    found = [run.evaluate(state.parameters, None, batch)[0]["loss"] for batch in run.validation]
    assert np.isfinite(found).all()


def test_a_checkpoint_holds_the_data_spec_and_a_missing_one_is_named(straight, tmp_path):
    with Checkpoints(straight, create=False) as checkpoints:
        assert checkpoints.spec("best") == tiny_run.data().spec
    with Checkpoints(tmp_path, create=False) as checkpoints:
        assert not checkpoints.has("best")
        with pytest.raises(UserError, match=r"no 'best' checkpoint in this run; it stopped before"):
            checkpoints.spec("best")
    assert not list(tmp_path.iterdir())
    assert read_metrics(tmp_path) == []


def test_a_slot_holds_the_state_that_was_saved_last_and_no_other(tmp_path):
    """Later ones go too: a run may go on from an earlier state than what was saved."""
    run, spec = fresh(), tiny_run.data().spec
    with Checkpoints(tmp_path) as checkpoints:
        for step in (5, 8, 3):
            state = replace(run.state, step=run.state.step + step)
            checkpoints.save("last", state, spec, {})
    assert [path.name for path in (tmp_path / "checkpoints" / "last").iterdir()] == ["3"]
    assert step_of(tmp_path, "last") == 3


def events_of(folder: Path) -> list:
    """All TensorBoard events of a run, file after file (TFRecord: length, CRC, bytes, CRC)."""
    found = []
    for path in sorted((folder / "tb").iterdir()):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            found.append(EVENTS.Event.FromString(content[at + 12 : at + 12 + length]))
            at += 12 + length + 4
    return found


def test_curves_hold_what_the_log_holds_and_hide_what_a_broken_start_wrote(straight):
    events = events_of(straight)
    # Step 0: whatever a process wrote that was killed before the first state is hidden.
    assert [(e.step, e.session_log.status) for e in events if e.HasField("session_log")] == [(0, 1)]
    losses = {
        e.step: e.summary.value[0].simple_value
        for e in events
        if e.HasField("summary") and e.summary.value[0].tag == "train/loss"
    }
    logged = {r["step"]: r["train/loss"] for r in read_metrics(straight) if "train/loss" in r}
    assert losses == pytest.approx(logged)


def test_a_resumed_run_hides_the_curves_after_its_state(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        loop_of(on_call(fresh(), 5, interrupt_before), tmp_path).train()
    for path in (tmp_path / "tb").iterdir():
        # Files are named by the second.
        path.rename(path.with_name("events.out.tfevents.0"))
    loop_of(fresh(), tmp_path).train(resume=True)
    sessions = [e.step for e in events_of(tmp_path) if e.HasField("session_log")]
    assert sessions == [0, 4 + 1]


def full(*_, **__):
    raise OSError(28, "No space left on device")


def test_a_full_disk_ends_a_run_in_one_line_with_the_way_on(tmp_path, monkeypatch):
    monkeypatch.setattr("wound_jax.training.curves.Curves.write", full)
    with pytest.raises(UserError, match=r"No space left on device\. Make room, and go on .*resume"):
        loop_of(fresh(), tmp_path).train()


def test_a_state_that_does_not_fit_on_the_disk_is_refused_before_it_is_begun(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"best/0 could not be written: No space left on device\."):
        loop_of(fresh(), tmp_path).train()
    assert not list(tmp_path.rglob("*.part"))
