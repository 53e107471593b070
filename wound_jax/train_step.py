"""The training step: `(state, store, batch) -> (state, metrics)`, pure, jitted once, donated.

Only the trainable leaves are differentiated, so that a frozen backbone costs no gradient, no
optimiser state and no share in the clip. Nothing here waits for the device.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Int

from wound_jax.arrays import Parameters, PerSet, Scalar
from wound_jax.batching import CellStore, IndexBatch, SetBatch, gather
from wound_jax.losses import SetLoss, SetLossValue
from wound_jax.models.functional import predict
from wound_jax.models.set_transformer import Prediction
from wound_jax.sharding import Devices

Metrics = dict[str, Scalar]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that changes while training, and the frozen parameters beside it.

    Attributes:
        step: number of steps done.
        trainable: parameters that are differentiated, by path.
        frozen: parameters that are not.
        opt_state: the optimiser's state over `trainable`.
    """

    step: Int[Array, ""]
    trainable: Parameters
    frozen: Parameters
    opt_state: optax.OptState

    @property
    def parameters(self) -> Parameters:
        """All parameters, by path."""
        return {**self.trainable, **self.frozen}


@dataclass(frozen=True)
class Objective:
    """What is minimised.

    Attributes:
        graphdef: the model's structure.
        loss: distance between predicted and measured sets.
        decoder_weight: weight of the same distance between decoded and measured expression.
    """

    graphdef: nnx.GraphDef
    loss: SetLoss
    decoder_weight: float

    def __call__(
        self, parameters: Parameters, batch: SetBatch, key: jax.Array | None = None
    ) -> tuple[Scalar, Metrics]:
        """The loss of a batch, averaged over its measured cells, and its parts.

        Args:
            parameters: all parameters of the model.
            batch: the sets.
            key: dropout key; None evaluates without dropout.
        """
        prediction = predict(self.graphdef, parameters, batch.inputs, key)
        distance = self._distance(prediction.cells, batch.target, batch)
        metrics = {"ot_loss": _mean_over_sets(distance.value, batch)}
        metrics |= {name: _mean_over_sets(v, batch) for name, v in distance.diagnostics.items()}
        metrics |= prediction.diagnostics
        total = metrics["ot_loss"]
        if prediction.genes is not None:
            metrics["decoder_loss"] = self._decoder_loss(prediction, batch)
            total = total + self.decoder_weight * metrics["decoder_loss"]
        return total, {"loss": total, **metrics}

    def _distance(self, predicted, target, batch: SetBatch) -> SetLossValue:
        return self.loss(predicted, target, batch.inputs.mask, batch.target_mask)

    def _decoder_loss(self, prediction: Prediction, batch: SetBatch) -> Scalar:
        distance = self._distance(prediction.genes, batch.target_genes, batch)
        return _mean_over_sets(distance.value, batch)


def _mean_over_sets(values: PerSet, batch: SetBatch) -> Scalar:
    """The one place where sets are averaged: a set counts by its measured cells.

    So each treated cell has the same weight, a set of three cells (whose distance is mostly noise)
    does not weigh like one of 128, and the empty sets that fill up a batch do not count.
    """
    weight = set_weights(batch)
    return (values * weight).sum() / jnp.maximum(weight.sum(), 1.0)


def set_weights(batch: SetBatch) -> PerSet:
    """Number of measured cells of each set; 0 where no control cell answers to them."""
    return batch.target_mask.sum(-1) * batch.inputs.mask.any(-1).astype(jnp.float32)


def train_step(
    state: TrainState,
    batch: SetBatch,
    *,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    labels: dict[str, str],
    seed: int,
) -> tuple[TrainState, Metrics]:
    """One step of gradient descent; pure.

    Args:
        state: the state before.
        batch: the sets.
        objective: what is minimised.
        optimizer: over the trainable parameters; it clips.
        schedule: the learning rate, for the log.
        labels: label of each parameter, for the norms per label.
        seed: of the dropout; the key is folded with the step.
    """
    key = jax.random.fold_in(jax.random.key(seed), state.step)

    def loss(trainable: Parameters) -> tuple[Scalar, Metrics]:
        return objective({**trainable, **state.frozen}, batch, key)

    gradients, metrics = jax.grad(loss, has_aux=True)(state.trainable)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.trainable)
    metrics |= _norms(gradients, labels) | {"lr": jnp.asarray(schedule(state.step))}
    new = TrainState(
        step=state.step + 1,
        trainable=cast(Parameters, optax.apply_updates(state.trainable, updates)),
        frozen=state.frozen,
        opt_state=opt_state,
    )
    return new, metrics


def _norms(gradients: Parameters, labels: dict[str, str]) -> Metrics:
    """Norm of the trainable gradients before the clip, in all and by label.

    A part's decayed and undecayed parameters are one part: `mhc` counts `mhc_no_decay` too.
    """
    squares: dict[str, Scalar] = {}
    for name, gradient in gradients.items():
        label = labels[name].removesuffix("_no_decay")
        squares[label] = squares.get(label, jnp.zeros(())) + jnp.sum(gradient**2)
    by_label = {f"grad_norm/{label}": jnp.sqrt(square) for label, square in squares.items()}
    return {"grad_norm": jnp.sqrt(sum(squares.values(), jnp.zeros(()))), **by_label}


def compile_train_step(
    step: Callable[[TrainState, SetBatch], tuple[TrainState, Metrics]], devices: Devices
) -> Callable[[TrainState, CellStore | None, IndexBatch | SetBatch], tuple[TrainState, Metrics]]:
    """Jits the step over a batch of positions (with a store) or of arrays (without).

    The state's buffers are donated: the caller must not use the old state again.
    """

    def from_store(state: TrainState, store: CellStore | None, batch: IndexBatch | SetBatch):
        return step(state, _resolve(store, batch))

    return jax.jit(from_store, donate_argnums=0, out_shardings=devices.replicated)


def compile_eval_step(
    objective: Objective, devices: Devices
) -> Callable[[Parameters, CellStore | None, IndexBatch | SetBatch], tuple[Metrics, Scalar]]:
    """Jits the evaluation of a batch without dropout: its metrics and its weight (cells)."""

    def evaluate(parameters: Parameters, store: CellStore | None, batch: IndexBatch | SetBatch):
        sets = _resolve(store, batch)
        return objective(parameters, sets)[1], set_weights(sets).sum()

    return jax.jit(evaluate, out_shardings=devices.replicated)


def _resolve(store: CellStore | None, batch: IndexBatch | SetBatch) -> SetBatch:
    if isinstance(batch, SetBatch):
        return batch
    if store is None:
        raise TypeError("a batch of positions needs a cell store")
    return gather(store, batch)
