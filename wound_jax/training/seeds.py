"""Several seeds of one config in one program: one more axis of every array, the first.

    f([s_1, ..., s_n], [b_1, ..., b_n]) = [f(s_1, b_1), ..., f(s_n, b_n)]

by `jax.vmap`: one compilation and larger multiplications. Each seed has what it would have alone:
its initial parameters, its order of the data, its validation sets, its dropout and its own folder.
So its results are those of a run alone, but for the order in which floating-point sums are taken.

Where the devices divide the number of seeds, each device has its own seeds and asks no other;
elsewhere the sets of every seed are shared among the devices, as they are for one run.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from wound_jax.config.schema import RunConfig
from wound_jax.data.cells import PreparedData
from wound_jax.data.sets import SetPlan
from wound_jax.devices.mesh import DATA_AXIS, Devices, make_devices
from wound_jax.training.batch import stacked
from wound_jax.training.log import TrainingLog, Validations
from wound_jax.training.setup import Run, build_objective, make_step
from wound_jax.training.step import (
    Step,
    TrainState,
    compile_train_step,
    eval_step,
    many_steps,
)


def with_seed(config: RunConfig, seed: int) -> RunConfig:
    """The config of one seed: another start and order of the data; the split has its own seed."""
    return config.model_copy(update={"seed": seed})


class SeedsRun:
    """What `wound_jax.training.loop.drive` needs to train several seeds at once.

    Args:
        config: of the variant; its own seed plays no part.
        seeds: those that train together.
        data: the cells.

    Attributes:
        over_devices: whether each device has seeds of its own, rather than a share of all sets.
        placement: of states, and of whatever else has no sets, on the devices.
        model: structure and labels, which all seeds share.

    All others are those of `wound_jax.training.loop.Trainable`, with the seeds as first axis of
    arrays.
    """

    def __init__(self, config: RunConfig, seeds: Sequence[int], data: PreparedData):
        first = Run(with_seed(config, seeds[0]), data)
        runs = [first, *(Run(with_seed(config, seed), data, first.feed) for seed in seeds[1:])]
        self.model, self.devices = first.model, first.devices
        self.batches_per_epoch, self.total_steps = first.batches_per_epoch, first.total_steps
        self.over_devices = len(seeds) % self.devices.count == 0
        by_seed = PartitionSpec(DATA_AXIS) if self.over_devices else PartitionSpec()
        by_set = by_seed if self.over_devices else PartitionSpec(None, DATA_AXIS)
        self.placement, batches = self._placed(by_seed), self._placed(by_set)
        self.feed = first.feed.placing(batches, self._placed(PartitionSpec(None, *by_set)))
        # No run is kept: each has a state of its own.
        self._plans = tuple(run.plans for run in runs)
        self._batch_size = config.training.batch_size
        self.validation = [
            jax.device_put(_stack(same), batches)
            for same in zip(*(run.validation for run in runs), strict=True)
        ]
        self.state = self.stack([run.state for run in runs])
        self._divide = jax.jit(partial(_slices, len(runs)), out_shardings=self.devices.replicated)
        self._compile(config, seeds)

    def _placed(self, axes: PartitionSpec) -> NamedSharding:
        return NamedSharding(self.devices.mesh, axes)

    def epoch(self, epoch: int) -> list[SetPlan]:
        """The batches of one epoch; every seed has as many, since all cut the same groups."""
        batches = (plans.epoch(epoch).batches(self._batch_size) for plans in self._plans)
        return [stacked(of_seeds) for of_seeds in zip(*batches, strict=True)]

    def stack(self, states: Sequence[Any]) -> Any:
        """One state a seed as one, placed."""
        return jax.device_put(_stack(states), self.placement)

    def divide(self, tree: Any) -> list[Any]:
        """The inverse of `stack`: one tree a seed, replicated on the devices."""
        return self._divide(tree)

    def _compile(self, config: RunConfig, seeds: Sequence[int]) -> None:
        # A device with seeds of its own has all sets of these, too.
        one = self.over_devices
        of_sets = make_devices(1, config.training.batch_size) if one else self.devices
        objective = build_objective(config, self.model.graphdef, of_sets)
        _, step = make_step(config, self.model, objective, self.total_steps, of_sets)
        numbers = jax.device_put(np.array(seeds), self.placement)

        def train(cells, state, batch, seed):
            return step(state, cells, batch, seed=seed)

        def score(cells, parameters, batch):
            return eval_step(parameters, cells, batch, objective=objective)

        mesh = self.devices.mesh if one else None
        train_all, score_all = _for_all(train, mesh), _for_all(score, mesh)

        def train_step(state, cells, batch):
            return train_all(cells, state, batch, numbers)

        # Of several steps the metrics have the axes `steps` and `seeds`.
        by_step = self._placed(PartitionSpec(None, *self.placement.spec))
        self.step: Step = compile_train_step(train_step, self.placement)
        self.steps: Step = compile_train_step(many_steps(train_step), (self.placement, by_step))
        self.evaluate: Callable[..., tuple[Any, Any]] = jax.jit(
            lambda parameters, cells, batch: score_all(cells, parameters, batch),
            out_shardings=self.placement,
        )


def _stack(trees: Sequence[Any]) -> Any:
    """Trees of arrays on the devices as one, with the seeds as first axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _slices(n: int, tree: Any) -> list[Any]:
    """The inverse of `_stack`."""
    return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(n)]


def _for_all(function: Callable[..., Any], mesh: Mesh | None) -> Callable[..., Any]:
    """`function(cells, *of_one_seed)` as a function of the trees of all seeds.

    The cells are the same for all seeds, and lie on every device.

    Args:
        function: of one seed.
        mesh: the devices, where each has seeds of its own.
    """

    def all_seeds(cells: Any, *trees: Any) -> Any:
        return jax.vmap(partial(function, cells))(*trees)

    if mesh is None or mesh.size == 1:
        return all_seeds

    def on_each_device(cells: Any, *trees: Any) -> Any:
        by_seed = PartitionSpec(DATA_AXIS)
        return jax.shard_map(
            all_seeds,
            mesh=mesh,
            in_specs=(PartitionSpec(), *[by_seed] * len(trees)),
            out_specs=by_seed,
            check_vma=False,
        )(cells, *trees)

    return on_each_device


class SeedsLog:
    """Training logs of all seeds as one; use as a context manager.

    Each seed has its own validation, and so its own best state.

    Args:
        logs: one a seed, not yet entered.
        run: the seeds.
    """

    def __init__(self, logs: Sequence[TrainingLog], run: SeedsRun):
        self._logs = list(logs)
        self._run = run
        self._open = ExitStack()
        # (last step, metrics of all seeds, cells of each seed, number of steps)
        self._pending: list[tuple[int, dict[str, jax.Array], int, int]] = []

    def __enter__(self) -> "SeedsLog":
        for log in self._logs:
            self._open.enter_context(log)
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
            log.begin(state, devices, resume=resume)
            for log, state in zip(self._logs, self._run.divide(initial), strict=True)
        ]
        starts = {start for _, start in begun}
        if len(starts) > 1:
            raise ValueError(f"the seeds are at the steps {sorted(starts)}; train them apart.")
        return self._run.stack([state for state, _ in begun]), starts.pop()

    def step(self, step: int, metrics: dict[str, Any], cells: int, count: int = 1) -> None:
        """Keeps the metrics of `count` steps of all seeds up to `step`, still on the devices."""
        self._pending.append((step, metrics, round(cells / len(self._logs)), count))

    def flush(self) -> None:
        """Fetches what is pending and writes it to each seed's log.

        Raises:
            UserError: a loss or a gradient of some seed is not finite.
        """
        pending, self._pending = self._pending, []
        fetched = jax.device_get([metrics for _, metrics, _, _ in pending])
        for i, log in enumerate(self._logs):
            for (step, _, cells, count), metrics in zip(pending, fetched, strict=True):
                log.step(step, _of_seed(metrics, i), cells, count)
            log.flush()

    def validated(self, step: int, state: TrainState, results: Validations) -> None:
        """Logs a validation of each seed and saves its states.

        Raises:
            UserError: the loss of some seed is not finite.
        """
        fetched, states = jax.device_get(list(results)), self._run.divide(state)
        for i, log in enumerate(self._logs):
            own = [(_of_seed(metrics, i), weights[i]) for metrics, weights in fetched]
            log.validated(step, states[i], own)

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
        for log, one in zip(self._logs, self._run.divide(state), strict=True):
            log.interrupted(one)


def _of_seed(metrics: dict[str, Any], i: int) -> dict[str, Any]:
    """The metrics of one seed; those of several steps have the axes `steps` and `seeds`."""
    return {name: values[..., i] for name, values in metrics.items()}
