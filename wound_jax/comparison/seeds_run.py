"""Several seeds of one config as something the loop can train: all of them in one program.

To each seed what it would be given alone: its initial parameters, its order of the data, its
validation sets and its dropout. So its results are those of a run alone, but for the order in which
floating-point sums are taken.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from wound_jax.ahead import Ahead
from wound_jax.assemble import Feed, Run, build_objective, make_step, stacked
from wound_jax.comparison.seed_axis import SeedAxis
from wound_jax.config.schema import RunConfig
from wound_jax.data.cells import PreparedData
from wound_jax.data.plan import PlanBuilder, SetPlan
from wound_jax.sharding import make_devices
from wound_jax.train_step import (
    Batch,
    Step,
    compile_train_step,
    eval_step,
    many_steps,
)


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
        """One batch of each seed; see `wound_jax.assemble.Feed.batch`."""
        return self._gathered(plan, upcoming) if self._gathered else self._place(plan)

    def on_host(self, plan: SeedsPlan) -> Batch:
        """The same before it is placed."""
        return stacked([self._feed.on_host(one) for one in plan.of])

    def _place(self, plan: SeedsPlan) -> Batch:
        return jax.device_put(self.on_host(plan), self._axis.batches)


class SeedsRun:
    """What `wound_jax.loop.drive` needs to train several seeds at once.

    Args:
        config: of the variant; its own seed plays no part.
        seeds: those that train together.
        data: the cells.

    Attributes:
        axis: how the seeds lie; all others are those of `wound_jax.loop.Trainable`, with the seeds
            as first axis of arrays.
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
