"""Several seeds of one run as one more axis of every array, the first one.

    f([s_1, ..., s_n], [b_1, ..., b_n]) = [f(s_1, b_1), ..., f(s_n, b_n)]

by `jax.vmap`: one compilation and larger multiplications. Where the devices divide the number of
seeds, each device has its own seeds and asks no other; elsewhere the sets of every seed are shared
among the devices, as they are for one run.

What several seeds that train together leave: to each its own folder, as if it were alone.

Several seeds of one config as something the loop can train: all of them in one program.

To each seed what it would be given alone: its initial parameters, its order of the data, its
validation sets and its dropout. So its results are those of a run alone, but for the order in which
floating-point sums are taken.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from wound_jax.config.schema import RunConfig
from wound_jax.data.cells import PreparedData
from wound_jax.data.sets import PlanBuilder, SetPlan
from wound_jax.devices.mesh import DATA_AXIS, Devices, make_devices
from wound_jax.devices.prefetch import Ahead
from wound_jax.training.log import Journal, Validations
from wound_jax.training.setup import Feed, Run, build_objective, make_step, stacked
from wound_jax.training.step import (
    Batch,
    Step,
    TrainState,
    compile_train_step,
    eval_step,
    many_steps,
)


class SeedAxis:
    """How the seeds of one run lie along the first axis, and on the devices.

    Args:
        size: number of seeds.
        devices: of the run.

    Attributes:
        over_devices: whether each device has seeds of its own, rather than a share of all sets.
        states: placement of states and of whatever else has no sets.
        batches: placement of batches.
    """

    def __init__(self, size: int, devices: Devices):
        self.size = size
        self.over_devices = size % devices.count == 0
        self._devices = devices
        by_seed = PartitionSpec(DATA_AXIS) if self.over_devices else PartitionSpec()
        by_set = by_seed if self.over_devices else PartitionSpec(None, DATA_AXIS)
        self.states = NamedSharding(devices.mesh, by_seed)
        self.batches = NamedSharding(devices.mesh, by_set)
        self._divide = jax.jit(self._slices, out_shardings=devices.replicated)

    def by_step(self, placement: NamedSharding) -> NamedSharding:
        """A placement of arrays that have a first axis `steps` before the seeds."""
        return NamedSharding(self._devices.mesh, PartitionSpec(None, *placement.spec))

    def stack(self, trees: Sequence[Any]) -> Any:
        """One tree a seed as one tree; the caller places it."""
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

    def divide(self, tree: Any) -> list[Any]:
        """The inverse of `stack`: one tree a seed, replicated on the devices."""
        return self._divide(tree)

    def map(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function(shared, *of_one_seed)` as a function of the trees of all seeds.

        The first argument is the same for all seeds; it lies on every device.
        """

        def all_seeds(shared: Any, *trees: Any) -> Any:
            return jax.vmap(partial(function, shared))(*trees)

        if not self.over_devices or self._devices.count == 1:
            return all_seeds

        def on_each_device(shared: Any, *trees: Any) -> Any:
            by_seed = PartitionSpec(DATA_AXIS)
            return jax.shard_map(
                all_seeds,
                mesh=self._devices.mesh,
                in_specs=(PartitionSpec(), *[by_seed] * len(trees)),
                out_specs=by_seed,
                check_vma=False,
            )(shared, *trees)

        return on_each_device

    def _slices(self, tree: Any) -> list[Any]:
        return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(self.size)]


class SeedsJournal:
    """The journals of all seeds as one; use as a context manager.

    Each seed has its own validation, and so its own best state.

    Args:
        journals: one a seed, not yet entered.
        axis: how the seeds lie.
    """

    def __init__(self, journals: Sequence[Journal], axis: SeedAxis):
        self._journals = list(journals)
        self._axis = axis
        self._open = ExitStack()
        # (last step, metrics of all seeds, cells of each seed, number of steps)
        self._pending: list[tuple[int, dict[str, jax.Array], int, int]] = []

    def __enter__(self) -> "SeedsJournal":
        for journal in self._journals:
            self._open.enter_context(journal)
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def begin(
        self, initial: TrainState, devices: Devices, *, resume: bool
    ) -> tuple[TrainState, int]:
        """The states to start from, and their step.

        Raises:
            ValueError: to resume, the seeds were saved at different steps.
        """
        begun = [
            journal.begin(state, devices, resume=resume)
            for journal, state in zip(self._journals, self._axis.divide(initial), strict=True)
        ]
        starts = {start for _, start in begun}
        if len(starts) > 1:
            raise ValueError(f"the seeds are at the steps {sorted(starts)}; train them apart.")
        stacked = self._axis.stack([state for state, _ in begun])
        return jax.device_put(stacked, self._axis.states), starts.pop()

    def step(self, step: int, metrics: dict[str, Any], cells: int, count: int = 1) -> None:
        """Keeps the metrics of `count` steps of all seeds up to `step`, still on the devices."""
        self._pending.append((step, metrics, round(cells / self._axis.size), count))

    def flush(self) -> None:
        """Fetches what is pending and writes it to each seed's log.

        Raises:
            UserError: a loss or a gradient of some seed is not finite.
        """
        pending, self._pending = self._pending, []
        fetched = jax.device_get([metrics for _, metrics, _, _ in pending])
        for i, journal in enumerate(self._journals):
            for (step, _, cells, count), metrics in zip(pending, fetched, strict=True):
                journal.step(step, _of_seed(metrics, i), cells, count)
            journal.flush()

    def validated(self, step: int, state: TrainState, results: Validations) -> None:
        """Logs a validation of each seed and saves its states.

        Raises:
            UserError: the loss of some seed is not finite.
        """
        fetched, states = jax.device_get(list(results)), self._axis.divide(state)
        for i, journal in enumerate(self._journals):
            own = [(_of_seed(metrics, i), weights[i]) for metrics, weights in fetched]
            journal.validated(step, states[i], own)

    def ends_early(self, patience: int | None) -> bool:
        """Never.

        Raises:
            ValueError: early stopping is asked for; it ends each seed at a step of its own.
        """
        if patience is not None:
            raise ValueError("seeds with early stopping end at different steps; train them apart.")
        return False

    def interrupted(self, state: TrainState) -> None:
        """Saves what each seed needs to go on from here."""
        self.flush()
        # A second Ctrl-C may come in mid-step, when the old state is given away already.
        if state.step.is_deleted():
            return
        for journal, one in zip(self._journals, self._axis.divide(state), strict=True):
            journal.interrupted(one)


def _of_seed(metrics: dict[str, Any], i: int) -> dict[str, Any]:
    """The metrics of one seed; those of several steps have the axes `steps` and `seeds`."""
    return {name: values[..., i] for name, values in metrics.items()}


def with_seed(config: RunConfig, seed: int) -> RunConfig:
    """The config of one seed: another start and order of the data; the split has its own seed."""
    return config.model_copy(update={"seed": seed})


@dataclass(frozen=True)
class SeedsPlan:
    """One batch of each seed."""

    of: tuple[SetPlan, ...]

    @property
    def target_mask(self) -> np.ndarray:
        """bool `[seeds, sets, cells]`: which target cells are real."""
        return np.stack([plan.target_mask for plan in self.of])


@dataclass(frozen=True)
class SeedsEpoch:
    """One epoch of each seed."""

    of: tuple[SetPlan, ...]

    def batches(self, size: int) -> list[SeedsPlan]:
        """Their batches; every seed has as many, since all cut the same groups."""
        return [
            SeedsPlan(plans)
            for plans in zip(*(plan.batches(size) for plan in self.of), strict=True)
        ]


@dataclass(frozen=True)
class SeedsPlans:
    """The plan builders of all seeds."""

    of: tuple[PlanBuilder, ...]

    def epoch(self, epoch: int) -> SeedsEpoch:
        """One epoch of each seed."""
        return SeedsEpoch(tuple(builder.epoch(epoch) for builder in self.of))


class SeedsFeed:
    """Places the cells once, and a batch of each seed at every step.

    Args:
        feed: of one of the seeds; the cells are the same for all.
        axis: how the seeds lie.
    """

    def __init__(self, feed: Feed, axis: SeedAxis):
        self._feed = feed
        self._axis = axis
        self.store = feed.store
        self._gathered = Ahead(self._place) if self.store is None else None

    def batch(self, plan: SeedsPlan, upcoming: Sequence[SeedsPlan] = ()) -> Batch:
        """One batch of each seed; see `wound_jax.training.setup.Feed.batch`."""
        return self._gathered(plan, upcoming) if self._gathered else self._place(plan)

    def on_host(self, plan: SeedsPlan) -> Batch:
        """The same before it is placed."""
        return stacked([self._feed.on_host(one) for one in plan.of])

    def _place(self, plan: SeedsPlan) -> Batch:
        return jax.device_put(self.on_host(plan), self._axis.batches)


class SeedsRun:
    """What `wound_jax.training.loop.drive` needs to train several seeds at once.

    Args:
        config: of the variant; its own seed plays no part.
        seeds: those that train together.
        data: the cells.

    Attributes:
        axis: how the seeds lie; all others are those of `wound_jax.training.loop.Trainable`, with
            the seeds as first axis of arrays.
    """

    def __init__(self, config: RunConfig, seeds: Sequence[int], data: PreparedData):
        first = Run(with_seed(config, seeds[0]), data)
        runs = [first, *(Run(with_seed(config, seed), data, first.feed) for seed in seeds[1:])]
        self.model, self.devices = first.model, first.devices
        self.axis = SeedAxis(len(runs), self.devices)
        self.plans = SeedsPlans(tuple(run.plans for run in runs))
        self.feed = SeedsFeed(first.feed, self.axis)
        self.batches_per_epoch, self.total_steps = first.batches_per_epoch, first.total_steps
        self.validation = [
            jax.device_put(self.axis.stack(batches), self.axis.batches)
            for batches in zip(*(run.validation for run in runs), strict=True)
        ]
        self.state = jax.device_put(self.axis.stack([run.state for run in runs]), self.axis.states)
        self._compile(config, seeds)

    def _compile(self, config: RunConfig, seeds: Sequence[int]) -> None:
        # A device with seeds of its own has all sets of these, too.
        one = self.axis.over_devices
        of_sets = make_devices(1, config.training.batch_size) if one else self.devices
        objective = build_objective(config, self.model.graphdef, of_sets)
        _, step = make_step(config, self.model, objective, self.total_steps, of_sets)
        numbers = jax.device_put(np.array(seeds), self.axis.states)

        def train(store, state, batch, seed):
            return step(state, store, batch, seed=seed)

        def score(store, parameters, batch):
            return eval_step(parameters, store, batch, objective=objective)

        train_all, score_all = self.axis.map(train), self.axis.map(score)

        def train_step(state, store, batch):
            return train_all(store, state, batch, numbers)

        # Of several steps the metrics have the axes `steps` and `seeds`.
        placement = self.axis.states, self.axis.by_step(self.axis.states)
        self.step: Step = compile_train_step(train_step, self.axis.states)
        self.steps: Step = compile_train_step(many_steps(train_step), placement)
        self.evaluate: Callable[..., tuple[Any, Any]] = jax.jit(
            lambda parameters, store, batch: score_all(store, parameters, batch),
            out_shardings=self.axis.states,
        )

    def batches(self, plans: Sequence[SeedsPlan]) -> Batch:
        """Several batches of each seed as one for `steps`, placed."""
        placement = self.axis.by_step(self.axis.batches)
        return jax.device_put(stacked([self.feed.on_host(p) for p in plans]), placement)
