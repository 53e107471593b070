"""Puts a run together: model, partition, optimiser, devices and compiled steps, from a config."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from wound_jax.config.schema import RunConfig
from wound_jax.data.cells import PreparedData
from wound_jax.data.sets import SetPlan
from wound_jax.devices.mesh import Devices, make_devices, per_device, place, place_own
from wound_jax.devices.prefetch import Ahead
from wound_jax.losses import loss_options, make_loss
from wound_jax.losses.velocity import CELLS_OF_SOURCE, assign_velocity
from wound_jax.models.build import Model, build_model
from wound_jax.models.partition import partition
from wound_jax.training.batch import (
    CellStore,
    IndexBatch,
    SetBatch,
    gather_on_host,
    index_batch,
    make_store,
)
from wound_jax.training.objective import Objective, VelocityTerm
from wound_jax.training.optimizer import make_optimizer, make_schedule
from wound_jax.training.step import (
    Batch,
    TrainState,
    compile_eval_step,
    compile_train_step,
    many_steps,
    train_step,
)


class Feed:
    """Places cells and batches on the devices, resident or from the host.

    Args:
        store: the cells, as NumPy arrays or rows on disk.
        devices: where arrays go.
        resident: whether all cells lie on the device and batches are positions; otherwise each
            batch is gathered on the host, in a thread of its own.
    """

    def __init__(self, store: CellStore, devices: Devices, *, resident: bool):
        self._host = store
        self._devices = devices
        self.store = place(store, devices.replicated) if resident else None
        self._gathered = None if resident else Ahead(self._place)

    def batch(self, plan: SetPlan, upcoming: Sequence[SetPlan] = ()) -> IndexBatch | SetBatch:
        """One batch of a plan, its sets shared among the devices.

        Args:
            plan: which sets.
            upcoming: the batches that will be asked for next; what has to be gathered on the host
                is begun.
        """
        return self._gathered(plan, upcoming) if self._gathered else self._place(plan)

    def on_host(self, plan: SetPlan) -> IndexBatch | SetBatch:
        """The same batch before it is placed."""
        batch = index_batch(plan)
        return batch if self.store is not None else gather_on_host(self._host, batch)

    def _place(self, plan: SetPlan) -> IndexBatch | SetBatch:
        own = plan.take(self._devices.own(len(plan)))
        return place_own(self.on_host(own), self._devices.by_set)


def make_feed(config: RunConfig, data: PreparedData, devices: Devices) -> Feed:
    """The feed of a run."""
    store = make_store(
        data,
        decoder=config.model.decoder.enable,
        velocity_of=CELLS_OF_SOURCE[config.velocity.source],
    )
    return Feed(store, devices, resident=config.data.location == "device")


def build_objective(config: RunConfig, graphdef: nnx.GraphDef, devices: Devices) -> Objective:
    """What a run minimises; losses of sets run on the device the sets lie on."""
    loss, velocity = config.loss, config.velocity
    options = {name: getattr(loss, name) for name in loss_options(loss.name)}
    term = None
    if velocity.enable:
        assign = partial(
            assign_velocity, velocity.source, relative_epsilon=velocity.relative_epsilon
        )
        term = VelocityTerm(velocity, per_device(assign, devices))
    return Objective(
        graphdef=graphdef,
        loss=per_device(make_loss(loss.name, **options), devices),
        decoder_weight=config.model.decoder.weight,
        velocity=term,
    )


def make_step(
    config: RunConfig, model: Model, objective: Objective, total_steps: int, devices: Devices
) -> tuple[optax.GradientTransformation, partial]:
    """The optimiser, and the training step as a pure function `(state, store, batch, seed=...)`.

    Args:
        config: of the run.
        model: whose labels say what trains.
        objective: what is minimised.
        total_steps: length of the run, for the schedule.
        devices: that share the sets of a batch.
    """
    trainable, _ = partition(model.parameters, model.labels)
    labels = {name: model.labels[name] for name in trainable}
    schedule = make_schedule(config.training, total_steps)
    optimizer = make_optimizer(config.training, labels, schedule)
    return optimizer, partial(
        train_step,
        objective=objective,
        optimizer=optimizer,
        schedule=schedule,
        labels=labels,
        accumulate=config.training.accumulate,
        devices=devices.count,
    )


def stacked(batches: Sequence[Batch]) -> Batch:
    """Batches of the host as one, with a first axis `steps`."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *batches)


def initial_state(
    model: Model, optimizer: optax.GradientTransformation, devices: Devices
) -> TrainState:
    """The state before the first step, on the devices."""
    trainable, frozen = partition(model.parameters, model.labels)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        trainable=trainable,
        frozen=frozen,
        opt_state=optimizer.init(trainable),
    )
    return place(state, devices.replicated)


class Run:
    """Everything a training loop needs, assembled from a config and its data.

    Args:
        config: of the run.
        data: its cells.
        feed: of another run on the same cells and devices, to share it; None makes one.

    Attributes:
        model: structure, initial parameters and labels.
        devices: where the run computes.
        feed: places batches on the devices.
        plans: the sets of each epoch.
        validation: the fixed validation batches, on the devices.
        state: the state before the first step.
        step: the compiled training step.
        steps: the same for several batches at once (`wound_jax.training.step.many_steps`).
        evaluate: the compiled evaluation step.
    """

    def __init__(self, config: RunConfig, data: PreparedData, feed: Feed | None = None):
        training = config.training
        self.model = build_model(config, data.spec)
        self.devices = make_devices(training.devices, training.batch_size, training.accumulate)
        self.feed = feed or make_feed(config, data, self.devices)
        self.plans = data.plan_builder("train", config.data, config.seed)
        self.batches_per_epoch = -(-self.plans.sets_per_epoch() // training.batch_size)
        self.total_steps = _total_steps(training, self.batches_per_epoch)
        self.validation = self._validation_batches(config, data)
        self._compile(config)

    def _compile(self, config: RunConfig) -> None:
        objective = build_objective(config, self.model.graphdef, self.devices)
        optimizer, step = make_step(config, self.model, objective, self.total_steps, self.devices)
        step = partial(step, seed=config.seed)
        self.state = initial_state(self.model, optimizer, self.devices)
        self.step = compile_train_step(step, self.devices.replicated)
        self.steps = compile_train_step(many_steps(step), self.devices.replicated)
        self.evaluate = compile_eval_step(objective, self.devices)

    def batches(self, plans: Sequence[SetPlan]) -> Batch:
        """Several batches of positions as one for `steps`, placed."""
        own = [self.feed.on_host(plan.take(self.devices.own(len(plan)))) for plan in plans]
        return place_own(stacked(own), self.devices.by_step)

    def _validation_batches(self, config: RunConfig, data: PreparedData) -> list:
        groups, _ = data.groups("val")
        if not groups:
            return []
        plan = data.plan_builder("val", config.data, config.seed).fixed()
        plans = plan.batches(config.training.batch_size)[: config.training.val_batches]
        return [self.feed.batch(batch) for batch in plans]


def _total_steps(training, batches_per_epoch: int) -> int:
    limits = [training.max_steps]
    if training.max_epochs is not None:
        limits.append(training.max_epochs * batches_per_epoch)
    return min(limit for limit in limits if limit is not None)
