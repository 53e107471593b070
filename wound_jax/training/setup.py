"""Puts a run together: model, partition, optimiser, devices and compiled steps, from a config."""

import dataclasses
from functools import partial

import jax.numpy as jnp
import optax
from flax import nnx

from wound_jax.config.schema import RunConfig
from wound_jax.data.cells import PreparedData
from wound_jax.data.sets import SetPlan
from wound_jax.devices.mesh import Devices, make_devices, per_device, place
from wound_jax.losses.registry import build_loss
from wound_jax.losses.velocity import CELLS_OF_SOURCE, assign_velocity
from wound_jax.models.build import Model, build_model
from wound_jax.models.partition import partition
from wound_jax.training.batch import Batch, Feed
from wound_jax.training.objective import Objective, VelocityTerm
from wound_jax.training.optimizer import make_optimizer, make_schedule
from wound_jax.training.settings import TrainingSettings
from wound_jax.training.step import (
    TrainState,
    compile_eval_step,
    compile_train_step,
    many_steps,
    train_step,
)


def make_feed(config: RunConfig, data: PreparedData, devices: Devices) -> Feed:
    """The feed of a run."""
    cells = dataclasses.replace(data.cells, velocity_of=CELLS_OF_SOURCE[config.velocity.source])
    return Feed(cells, devices, resident=config.data.location == "device")


def build_objective(config: RunConfig, graphdef: nnx.GraphDef, devices: Devices) -> Objective:
    """What a run minimises; losses of sets run on the device the sets lie on."""
    velocity = config.velocity
    term = None
    if velocity.enable:
        assign = partial(
            assign_velocity, velocity.source, relative_epsilon=velocity.relative_epsilon
        )
        term = VelocityTerm(velocity, per_device(assign, devices))
    return Objective(
        graphdef=graphdef,
        loss=per_device(build_loss(config.loss), devices),
        decoder_weight=config.model.decoder.weight,
        velocity=term,
    )


def make_step(
    config: RunConfig, model: Model, objective: Objective, total_steps: int, devices: Devices
) -> tuple[optax.GradientTransformation, partial]:
    """The optimiser, and the training step as a pure function `(state, cells, batch, seed=...)`.

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
        self._batch_size = training.batch_size
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

    def epoch(self, epoch: int) -> list[SetPlan]:
        """The batches of one epoch."""
        return self.plans.epoch(epoch).batches(self._batch_size)

    def plan(self, step: int) -> SetPlan:
        """The batch of a step, counted from 1; for the state before the first step that of it."""
        epoch, place = divmod(max(step - 1, 0), self.batches_per_epoch)
        return self.epoch(epoch)[place]

    def _validation_batches(self, config: RunConfig, data: PreparedData) -> list[Batch]:
        groups, _ = data.groups("val")
        if not groups:
            return []
        plan = data.plan_builder("val", config.data, config.seed).fixed()
        plans = plan.batches(config.training.batch_size)[: config.training.val_batches]
        return [self.feed.batch(batch) for batch in plans]


def _total_steps(training: TrainingSettings, batches_per_epoch: int) -> int:
    limits = [training.max_steps]
    if training.max_epochs is not None:
        limits.append(training.max_epochs * batches_per_epoch)
    return min(limit for limit in limits if limit is not None)
