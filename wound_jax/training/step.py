"""The training step: `(state, cells, batch) -> (state, metrics)`, pure, jitted once, donated.

Only the trainable leaves are differentiated, so that a frozen backbone costs no gradient, no
optimiser state and no share in the clip. Nothing here waits for the device. With `accumulate` the
gradient of a batch is taken in parts m, each of the same number of sets:

    g = sum_m w_m g_m / sum_m w_m,    w_m: measured cells of part m

which is the gradient of the whole batch, since every term of the objective is a mean over sets that
weighs them by these cells. Dropout differs: each part draws its own mask.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from wound_jax.arrays import HostOrDevice, Parameters, Scalar, pytree
from wound_jax.data.cells import Cells
from wound_jax.devices.mesh import Devices, cut_sets
from wound_jax.training.batch import Batch, SetBatch, gather
from wound_jax.training.objective import Metrics, Objective, set_weights


@pytree
@dataclass(frozen=True)
class TrainState:
    """Everything that changes while training, and the frozen parameters beside it.

    Attributes:
        step: number of steps done.
        trainable: parameters that are differentiated, by path.
        frozen: parameters that are not.
        opt_state: the optimiser's state over `trainable`.
    """

    step: Int[HostOrDevice, ""]
    trainable: Parameters
    frozen: Parameters
    opt_state: optax.OptState

    @property
    def parameters(self) -> Parameters:
        """All parameters, by path."""
        return {**self.trainable, **self.frozen}


def train_step(
    state: TrainState,
    cells: Cells | None,
    batch: Batch,
    *,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    labels: dict[str, str],
    seed: int | Int[Array, ""],
    accumulate: int = 1,
    devices: int = 1,
) -> tuple[TrainState, Metrics]:
    """One step of gradient descent; pure.

    Args:
        state: the state before.
        cells: the cells, for a batch of positions.
        batch: the sets, as positions or as arrays.
        objective: what is minimised.
        optimizer: over the trainable parameters; it clips.
        schedule: the learning rate, for the log.
        labels: label of each parameter, for the norms per label.
        seed: of the dropout; the key is folded with the step.
        accumulate: number of parts in which the gradient is taken, one after the other.
        devices: how many share the sets; each part has its share of every device.
    """
    key = jax.random.fold_in(jax.random.key(seed), state.step)

    def gradient(sets: SetBatch, key: jax.Array) -> tuple[Parameters, Metrics]:
        def loss(trainable: Parameters) -> tuple[Scalar, Metrics]:
            return objective({**trainable, **state.frozen}, sets, key, state.step)

        return jax.grad(loss, has_aux=True)(state.trainable)

    gradients, metrics = _in_parts(gradient, cells, batch, key, accumulate, devices)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.trainable)
    metrics |= _norms(gradients, labels) | {"lr": jnp.asarray(schedule(state.step))}
    if isinstance(opt_state, optax.ApplyIfFiniteState):
        metrics["skipped_in_a_row"] = opt_state.notfinite_count
    trainable = cast(Parameters, optax.apply_updates(state.trainable, updates))
    return TrainState(state.step + 1, trainable, state.frozen, opt_state), metrics


def _in_parts(
    gradient: Callable[[SetBatch, jax.Array], tuple[Parameters, Metrics]],
    cells: Cells | None,
    batch: Batch,
    key: jax.Array,
    accumulate: int,
    devices: int,
) -> tuple[Parameters, Metrics]:
    """Gradient and metrics of all parts, one after the other, weighted by measured cells.

    Cells are gathered part by part too. Figures that are no mean over cells (the gains of mHC) are
    averages over the parts.
    """
    if accumulate == 1:
        return gradient(resolve(cells, batch), key)

    def weighted(part: Batch, index: Int[Array, ""]) -> tuple[Scalar, Any]:
        sets = resolve(cells, part)
        weight = set_weights(sets).sum()
        found = gradient(sets, jax.random.fold_in(key, index))
        return weight, jax.tree.map(lambda leaf: weight * leaf, found)

    def add(total: Any, given: tuple[Batch, Int[Array, ""]]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, weighted(*given)), None

    numbered = (cut_sets(batch, accumulate, devices), jnp.arange(accumulate))
    shapes = jax.eval_shape(weighted, *jax.tree.map(lambda leaf: leaf[0], numbered))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    (weight, total), _ = jax.lax.scan(add, zeros, numbered)
    return jax.tree.map(lambda leaf: leaf / jnp.maximum(weight, 1.0), total)


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


Step = Callable[[TrainState, Cells | None, Batch], tuple[TrainState, Metrics]]


def many_steps(step: Step) -> Step:
    """Several training steps as one function of several batches.

    Args:
        step: one training step.

    Returns:
        A function of the same arguments, where the arrays of the batch have a first axis `steps`,
        as have the metrics that it returns.
    """

    def steps(state: TrainState, cells: Cells | None, batches: Batch):
        return jax.lax.scan(lambda state, batch: step(state, cells, batch), state, batches)

    return steps


def compile_train_step(step: Step, placement: Any) -> Step:
    """Jits one step, or several, over batches of positions (with cells) or arrays (without).

    The state's buffers are donated: the caller must not use the old state again.

    Args:
        step: pure.
        placement: of the state and the metrics on the devices.
    """
    return jax.jit(step, donate_argnums=0, out_shardings=placement)


def compile_eval_step(
    objective: Objective, devices: Devices
) -> Callable[[Parameters, Cells | None, Batch], tuple[Metrics, Scalar]]:
    """Jits `eval_step`."""

    def evaluate(parameters: Parameters, cells: Cells | None, batch: Batch):
        return eval_step(parameters, cells, batch, objective=objective)

    return jax.jit(evaluate, out_shardings=devices.replicated)


def eval_step(
    parameters: Parameters, cells: Cells | None, batch: Batch, *, objective: Objective
) -> tuple[Metrics, Scalar]:
    """Evaluates a batch without dropout: its metrics and its weight (cells); pure.

    Among the metrics is `identity_loss`, what the control cells themselves would score.
    """
    sets = resolve(cells, batch)
    metrics = objective(parameters, sets)[1] | {"identity_loss": objective.identity(sets)}
    return metrics, set_weights(sets).sum()


def resolve(cells: Cells | None, batch: Batch) -> SetBatch:
    """A batch of arrays as it is; one of positions from the cells."""
    if isinstance(batch, SetBatch):
        return batch
    if cells is None:
        raise TypeError("a batch of positions needs the cells")
    return gather(cells, batch)
