"""Seeds that train in one program reach what each of them reaches alone."""

import copy
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_run

from wound_jax.data.sets import SetPlan
from wound_jax.errors import UserError
from wound_jax.training.checkpoint import Checkpoints
from wound_jax.training.log import TrainingLog, read_metrics
from wound_jax.training.loop import Loop, drive
from wound_jax.training.seeds import SeedsLog, SeedsRun, with_seed
from wound_jax.training.setup import Run

N_STEPS = 7
RHYTHM = ("training.max_epochs=null", f"training.max_steps={N_STEPS}", "training.val_every=3")
SEEDS = (5, -3)
# Name -> (seeds, which of them are trained alone too, settings).
CASES = {
    "adapters with dropout, cells on the host": (
        SEEDS,
        SEEDS,
        (*tiny_run.LORA, "data.location=host"),
    ),
    "sinkhorn, a device for each seed": (
        SEEDS,
        SEEDS[1:],
        ("loss.name=sinkhorn", "training.devices=2"),
    ),
    "velocity, sets over devices": (
        (*SEEDS, 0),
        SEEDS[1:],
        ("velocity.enable=true", "velocity.warmup_steps=4", "training.devices=2"),
    ),
}


def settings(*overrides: str):
    changes = (*RHYTHM, *overrides)
    cells = tuple(o for o in changes if o.startswith(("data", "split", "velocity.enable")))
    return tiny_run.config(*changes), tiny_run.data(*cells)


@cache
def _assembled(seeds, *overrides: str):
    config, data = settings(*overrides)
    run = SeedsRun(config, seeds, data)
    return run, jax.tree.map(np.array, run.state)


def new_run(seeds, *overrides: str) -> SeedsRun:
    """Seeds at their first step; runs of the same seeds share what is compiled."""
    assembled, state = _assembled(seeds, *overrides)
    run = copy.copy(assembled)
    run.state = jax.device_put(state, run.placement)
    return run


def train_together(folders: list[Path], seeds, *overrides: str, run=None, resume=False) -> SeedsRun:
    config, data = settings(*overrides)
    run = run or new_run(seeds, *overrides)
    logs = [TrainingLog(f, data.spec, run.total_steps, progress_bar=False) for f in folders]
    with SeedsLog(logs, run) as log:
        drive(run, config.training, log, resume=resume)
    return run


def train_alone(folder: Path, seed: int, *overrides: str) -> Run:
    config, data = settings(*overrides)
    run = Run(with_seed(config, seed), data)
    Loop(run, config.training, data.spec, folder, progress_bar=False).train()
    return run


def saved(folder: Path, slot: str, like: Run):
    with Checkpoints(folder, create=False) as checkpoints:
        return checkpoints.restore(slot, like.state, like.devices)


def records(folder: Path) -> list[dict]:
    return [
        {name: v for name, v in record.items() if name != "train/cells_per_second"}
        for record in read_metrics(folder)
    ]


def assert_same_log(found: list[dict], expected: list[dict]) -> None:
    assert [set(one) for one in found] == [set(one) for one in expected]
    for one, other in zip(found, expected, strict=True):
        for name, value in other.items():
            # Norms and gains of single modules may be near zero.
            np.testing.assert_allclose(one[name], value, rtol=2e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", CASES)
def test_together_equals_one_by_one(tmp_path, name):
    seeds, apart, overrides = CASES[name]
    # Adam divides by the size of a gradient: at the rate of the tiny run the rounding of those that
    # are nearly zero grows to 1e-3 of a figure, here it stays below 1e-6.
    overrides = (*overrides, "training.learning_rate=1e-3")
    folders = [tmp_path / f"together{seed}" for seed in seeds]
    train_together(folders, seeds, *overrides)
    for seed in apart:
        folder, alone = tmp_path / f"together{seed}", tmp_path / f"alone{seed}"
        like = train_alone(alone, seed, *overrides)
        assert [r["step"] for r in records(alone) if "val/loss" in r] == [0, 3, 6, 7]
        assert_same_log(records(folder), records(alone))
        for slot in ("best", "last"):
            (state, progress), (expected, its_progress) = (
                saved(path, slot, like) for path in (folder, alone)
            )
            assert int(state.step) == int(expected.step)
            assert progress["best_step"] == its_progress["best_step"]
            np.testing.assert_allclose(progress["best_loss"], its_progress["best_loss"], rtol=1e-5)
            for path, value in expected.parameters.items():
                np.testing.assert_allclose(state.parameters[path], value, atol=2e-6, err_msg=path)
    # Seeds differ: in their start and in the order of their data.
    first, second = (records(folder) for folder in folders[:2])
    assert all(a != b for a, b in zip(first, second, strict=True))


def test_each_seed_gets_the_batches_it_would_get_alone():
    config, data = settings()
    together = new_run(SEEDS)
    for i, seed in enumerate(SEEDS):
        alone = Run(with_seed(config, seed), data)
        assert together.batches_per_epoch == alone.batches_per_epoch
        for epoch in (0, 2):
            batches, found = alone.epoch(epoch), together.epoch(epoch)
            assert len(found) == len(batches) > 1
            for plans, plan in zip(found, batches, strict=True):
                placed = jax.tree.map(lambda leaf, i=i: leaf[i], together.feed.batch(plans))
                jax.tree.map(np.testing.assert_array_equal, placed, alone.feed.batch(plan))
        for path, value in alone.state.parameters.items():
            np.testing.assert_array_equal(together.state.parameters[path][i], value)


@pytest.mark.parametrize(("n", "over_devices"), [(2, True), (4, True), (3, False), (1, False)])
def test_seeds_are_divided_over_devices_where_these_divide_them(n, over_devices):
    config, data = settings("training.devices=2")
    run = SeedsRun(config, range(n), data)
    assert run.over_devices == over_devices
    leaf = jax.tree.leaves(run.state.trainable)[0]
    assert {s.data.shape[0] for s in leaf.addressable_shards} == {n // 2 if over_devices else n}
    batch = run.feed.batch(run.epoch(0)[0])
    assert isinstance(batch, SetPlan)
    n_sets = tiny_run.BATCH if over_devices else tiny_run.BATCH // 2
    shapes = {s.data.shape[:2] for s in batch.control.addressable_shards}
    assert shapes == {(n // 2 if over_devices else n, n_sets)}
    for i, tree in enumerate(run.divide(run.state.trainable)):
        for path, value in tree.items():
            np.testing.assert_array_equal(value, run.state.trainable[path][i])


def interrupting(run: SeedsRun, k: int) -> SeedsRun:
    """The run with a Ctrl-C before its k-th step from here."""
    real, calls = run.step, iter(range(1, 1000))

    def step(*given):
        if next(calls) == k:
            raise KeyboardInterrupt
        return real(*given)

    run.step = step
    return run


def test_a_broken_group_goes_on_bit_for_bit(tmp_path):
    straight = [tmp_path / f"straight{seed}" for seed in SEEDS]
    train_together(straight, SEEDS)
    broken = [tmp_path / f"broken{seed}" for seed in SEEDS]
    config, data = settings()
    with pytest.raises(KeyboardInterrupt):
        train_together(broken, SEEDS, run=interrupting(new_run(SEEDS), 5))
    like = Run(with_seed(config, SEEDS[0]), data)
    assert [int(saved(folder, "last", like)[0].step) for folder in broken] == [4, 4]
    train_together(broken, SEEDS, resume=True)
    for folder, expected in zip(broken, straight, strict=True):
        assert records(folder) == records(expected)
        for slot in ("best", "last"):
            (state, progress), (other, its_progress) = (
                saved(path, slot, like) for path in (folder, expected)
            )
            jax.tree.map(np.testing.assert_array_equal, state, other)
            assert progress == its_progress


def test_seeds_saved_at_different_steps_do_not_go_on_together(tmp_path):
    folders = [tmp_path / f"{seed}" for seed in SEEDS]
    train_alone(folders[0], SEEDS[0])
    with pytest.raises(ValueError, match=r"the seeds are at the steps \[0, 7\]; train them apart"):
        train_together(folders, SEEDS, resume=True)


def test_a_seed_that_diverges_is_named_and_not_saved(tmp_path):
    config, data = settings()
    run = new_run(SEEDS)
    real, calls = run.step, iter(range(1, 1000))

    def spoiled(*given):
        state, metrics = real(*given)
        if next(calls) == 5:
            metrics = {**metrics, "loss": metrics["loss"].at[1].set(np.nan)}
        return state, metrics

    run.step = spoiled
    folders = [tmp_path / f"{seed}" for seed in SEEDS]
    with pytest.raises(UserError, match="train/loss is nan at step 5"):
        train_together(folders, SEEDS, run=run)
    like = Run(with_seed(config, SEEDS[0]), data)
    assert [int(saved(folder, "last", like)[0].step) for folder in folders] == [3, 3]


def test_early_stopping_is_for_seeds_apart(tmp_path):
    folders = [tmp_path / f"{seed}" for seed in SEEDS]
    with pytest.raises(ValueError, match="seeds with early stopping end at different steps"):
        train_together(folders, SEEDS, "training.early_stopping=2")
