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
from jaxtyping import Array, Int

from wound_jax.arrays import Parameters, Scalar
from wound_jax.batching import CellStore, IndexBatch, SetBatch, gather
from wound_jax.objective import Metrics, Objective, set_weights
from wound_jax.sharding import Devices


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
        return objective({**trainable, **state.frozen}, batch, key, state.step)

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
    """Norm of the trainable gradients before the clip: in all, by label and by module.

    A part's decayed and undecayed parameters are one part: `mhc` counts `mhc_no_decay` too.
    """
    zero = jnp.zeros(())
    total, squares = zero, dict[str, Scalar]()
    for name, gradient in gradients.items():
        square = jnp.sum(gradient**2)
        label, module = labels[name].removesuffix("_no_decay"), name.partition(".")[0]
        for key in (f"grad_norm/{label}", f"grad_norm_of/{module}"):
            squares[key] = squares.get(key, zero) + square
        total = total + square
    return {"grad_norm": jnp.sqrt(total)} | {key: jnp.sqrt(s) for key, s in squares.items()}


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
    """Jits the evaluation of a batch without dropout: its metrics and its weight (cells).

    Among the metrics is `identity_loss`, what the control cells themselves would score.
    """

    def evaluate(parameters: Parameters, store: CellStore | None, batch: IndexBatch | SetBatch):
        sets = _resolve(store, batch)
        metrics = objective(parameters, sets)[1] | {"identity_loss": objective.identity(sets)}
        return metrics, set_weights(sets).sum()

    return jax.jit(evaluate, out_shardings=devices.replicated)


def _resolve(store: CellStore | None, batch: IndexBatch | SetBatch) -> SetBatch:
    if isinstance(batch, SetBatch):
        return batch
    if store is None:
        raise TypeError("a batch of positions needs a cell store")
    return gather(store, batch)
