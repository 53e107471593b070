"""Agreement of predicted displacements with RNA velocity, set by set.

With d = prediction - control, v a cell's velocity, c its confidence and s a unit of time:

    w_i   = c_i [c_i >= tau] [|v_i| > 1e-6] [cell i is real]
    align = sum_i w_i (1 - cos(d_i, v_i)) / max(sum w, 1e-12)
            + beta sum_i w_i ||d_i| - s |v_i|| / max(sum w, 1e-12)
    reg   = mean_i |d_i - v_i|^2

Norms are sqrt(sum of squares + eps^2). Left-out cells are masked before any arithmetic, so
padding and unknown velocities (NaN) reach neither a value nor a gradient, and a set without any
usable cell contributes exactly 0. Everything is at least float32: the cosine of long vectors
loses its digits in bfloat16. Cells are unpaired, so which velocity belongs to a predicted cell is
a choice of its own: see `assign_velocity`.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wound_jax.arrays import CellFeatures, CellMask, PerSet, Scalar, TargetFeatures, TargetMask
from wound_jax.errors import UserError, unknown_name
from wound_jax.losses.distances import (
    CellWeights,
    CrossMatrix,
    TargetWeights,
    as_measures,
    fill_empty,
    filled_sets,
    loss_dtype,
    squared_distances,
)
from wound_jax.losses.sinkhorn import SMALLEST_TEMPERATURE, relative_temperature

# A velocity no longer than this is no direction.
MIN_SPEED = 1e-6
NORM_EPS = 1e-8
_MIN_TOTAL = 1e-12

VelocitySource = Literal["matched_target", "control", "target_by_index"]
# Whose velocities each source reads: the control cells' or the target cells'.
CELLS_OF_SOURCE: dict[VelocitySource, Literal["control", "target"]] = {
    "matched_target": "target",
    "control": "control",
    "target_by_index": "target",
}


class Alignment(NamedTuple):
    """What `alignment_loss` finds in each set.

    Attributes:
        loss: [sets], 0 where no cell of the set is used.
        cosine: [sets], weighted mean cosine of displacement and velocity; 0 where none is used.
        used: [sets], share of the set's real cells that have a weight above 0.
    """

    loss: PerSet
    cosine: PerSet
    used: PerSet


class Drift(NamedTuple):
    """Velocities of the cells of a set.

    Attributes:
        velocity: [sets, cells, dims], in the basis of the displacement; NaN is unknown.
        confidence: [sets, cells] in [0, 1]; 0 leaves a cell out.
    """

    velocity: Float[Array, "sets cells dims"]
    confidence: Float[Array, "sets cells"]


def velocity_weights(
    velocity: CellFeatures,
    confidence: Float[Array, "sets cells"],
    mask: CellMask,
    min_confidence: float | Scalar,
) -> Float[Array, "sets cells"]:
    """How much each cell's velocity counts.

    Args:
        velocity: [sets, cells, dims]; a NaN or infinite entry makes the cell's velocity unknown.
        confidence: [sets, cells] in [0, 1]; NaN counts as 0.
        mask: [sets, cells], which places hold real cells.
        min_confidence: the threshold tau; cells below it are left out.

    Returns:
        [sets, cells], the confidence of the cells that count and 0 for all others.
    """
    usable = mask & jnp.isfinite(velocity).all(axis=-1) & (confidence >= min_confidence)
    speed = _norm(_kept(velocity, usable), eps=0.0)
    return jnp.where(usable & (speed > MIN_SPEED), confidence.astype(speed.dtype), 0.0)


def alignment_loss(
    displacement: CellFeatures,
    velocity: CellFeatures,
    weights: Float[Array, "sets cells"],
    *,
    mask: CellMask,
    beta: float | Scalar = 0.0,
    scale: float | Scalar = 1.0,
    eps: float = NORM_EPS,
) -> Alignment:
    """Weighted mean of 1 - cosine, plus beta times the weighted mean difference of lengths.

    Args:
        displacement: [sets, cells, dims], prediction minus control.
        velocity: [sets, cells, dims], same basis.
        weights: [sets, cells] from `velocity_weights`; 0 leaves a cell out.
        mask: [sets, cells], which places hold real cells (for the share of cells used).
        beta: weight of the length term. Velocities of most tools have an arbitrary unit of time,
            so a length means something only together with `scale`.
        scale: s, the time over which a velocity is to become a displacement.
        eps: smallest length. The gradient of a cosine at displacement 0 has length 1 / eps: give
            a larger value where predictions start at their control cells.

    Returns:
        Loss, mean cosine and share of cells used, each [sets].
    """
    used = mask & (weights > 0)
    weights = jnp.where(used, weights.astype(loss_dtype(weights)), 0.0)
    d, v = _kept(displacement, used), _kept(velocity, used)
    d_length, v_length = _norm(d, eps), _norm(v, eps)
    cosine = (d * v).sum(axis=-1) / (d_length * v_length)
    total = jnp.maximum(weights.sum(axis=-1), _MIN_TOTAL)

    def mean(per_cell: Float[Array, "sets cells"]) -> PerSet:
        return (weights * per_cell).sum(axis=-1) / total

    loss = mean(1.0 - cosine) + beta * mean(jnp.abs(d_length - scale * v_length))
    share = used.sum(axis=-1) / jnp.maximum(mask.sum(axis=-1), 1)
    return Alignment(loss=loss, cosine=mean(cosine), used=share.astype(loss.dtype))


def regularization_loss(
    displacement: CellFeatures, velocity: CellFeatures, mask: CellMask
) -> PerSet:
    """Mean over a set's cells of the squared length of displacement minus velocity.

    Args:
        displacement: [sets, cells, dims], prediction minus control.
        velocity: [sets, cells, dims], same basis and unit; cells with NaN entries are left out.
        mask: [sets, cells], which cells to average over.

    Returns:
        [sets], 0 where no cell is left.
    """
    used = mask & jnp.isfinite(velocity).all(axis=-1)
    difference = _kept(displacement, used) - _kept(velocity, used)
    return jnp.square(difference).sum(axis=(-2, -1)) / jnp.maximum(used.sum(axis=-1), 1)


def warmup_weight(step: int | Array, weight: float | Scalar, warmup_steps: int | Array) -> Scalar:
    """The loss weight at a step: weight * min(1, step / warmup_steps); no warmup at 0 steps."""
    progress = jnp.asarray(step, jnp.float32) / jnp.maximum(warmup_steps, 1)
    return weight * jnp.where(jnp.asarray(warmup_steps) > 0, jnp.minimum(progress, 1.0), 1.0)


def assign_velocity(
    source: str,
    drift: Drift,
    prediction: CellFeatures,
    mask: CellMask,
    target: TargetFeatures,
    target_mask: TargetMask,
    *,
    relative_epsilon: float = 0.1,
) -> Drift:
    """Gives each predicted cell a velocity.

    Args:
        source: "matched_target", the velocities of the target cells that optimal transport
            matches it with (`matched_drift`); "control", the velocity of the control cell it was
            predicted from; "target_by_index", that of the target cell in the same place, as
            published. Cells are unpaired, so the last pulls all cells in one mean direction.
        drift: velocities of the cells that `CELLS_OF_SOURCE[source]` names.
        prediction: [sets, cells, dims].
        mask: [sets, cells], real control cells.
        target: [sets, targets, dims], measured treated cells.
        target_mask: [sets, targets], real target cells.
        relative_epsilon: blur of the matching, as in `transport_rows`.

    Returns:
        Velocity and confidence of each predicted cell, [sets, cells, dims] and [sets, cells].

    Raises:
        UserError: an unknown source, or sets of unequal width for "target_by_index".
    """
    if source == "control":
        return drift
    if source == "target_by_index":
        _require_pairs(prediction, drift)
        return drift._replace(confidence=jnp.where(target_mask, drift.confidence, 0.0))
    if source == "matched_target":
        plan = transport_rows(prediction, target, mask, target_mask, relative_epsilon)
        return matched_drift(plan, drift, target_mask)
    raise unknown_name("velocity source", source, CELLS_OF_SOURCE)


def _require_pairs(prediction: CellFeatures, drift: Drift) -> None:
    if drift.velocity.shape[1] != prediction.shape[1]:
        raise UserError(
            f"velocity source target_by_index pairs cells by place, but sets hold "
            f"{prediction.shape[1]} control and {drift.velocity.shape[1]} target cells; use "
            "matched_target, or sets of one length."
        )


def matched_drift(
    plan: Float[Array, "sets cells targets"], drift: Drift, target_mask: TargetMask
) -> Drift:
    """Velocities of target cells, averaged over a transport plan.

    v_i = sum_j P_ij v_j over the targets with a known velocity, P's rows scaled to one on those;
    c_i = sum_j P_ij c_j, so mass sent to targets without a velocity lowers the confidence.

    Args:
        plan: [sets, cells, targets], rows summing to one.
        drift: velocities of the target cells, [sets, targets, dims].
        target_mask: [sets, targets].
    """
    known = target_mask & jnp.isfinite(drift.velocity).all(axis=-1) & (drift.confidence > 0)
    plan = jnp.where(known[:, None, :], plan, 0.0)
    mass = plan.sum(axis=-1, keepdims=True)
    highest = jax.lax.Precision.HIGHEST
    velocity = jnp.matmul(plan, _kept(drift.velocity, known), precision=highest)
    confidence = jnp.where(known, drift.confidence.astype(velocity.dtype), 0.0)
    return Drift(
        velocity=velocity / jnp.maximum(mass, _MIN_TOTAL),
        confidence=jnp.matmul(plan, confidence[..., None], precision=highest)[..., 0],
    )


def transport_rows(
    prediction: CellFeatures,
    target: TargetFeatures,
    mask: CellMask,
    target_mask: TargetMask,
    relative_epsilon: float = 0.1,
    max_iterations: int = 200,
) -> Float[Array, "sets cells targets"]:
    """Where entropic optimal transport sends each predicted cell; no gradient passes.

    The plan of cost C = |x - y|^2 / 2 with uniform marginals on the real cells and temperature
    e = relative_epsilon * mean C (Cuturi 2013, arXiv 1306.0895), solved by ott-jax. Its rows are
    softmax_j((g_j - C_ij) / e), so they sum to one even before the iterations have converged.

    Args:
        prediction: [sets, cells, dims].
        target: [sets, targets, dims].
        mask: [sets, cells].
        target_mask: [sets, targets].
        relative_epsilon: temperature over mean cost; smaller is sharper and slower.
        max_iterations: of Sinkhorn.

    Returns:
        [sets, cells, targets]; rows of padded cells, and of sets without targets, are 0.
    """
    x, y, a, b = jax.lax.stop_gradient(as_measures(prediction, target, mask, target_mask))
    filled = filled_sets(a, b)
    cost = jnp.where(filled[:, None, None], squared_distances(x, y, a, b) / 2, 0.0)
    temperature = relative_temperature(x, y, a, b, relative_epsilon)
    temperature = jnp.where(filled, jnp.maximum(temperature, SMALLEST_TEMPERATURE), 1.0)
    potential = _target_potentials(
        cost, fill_empty(a, filled), fill_empty(b, filled), temperature, max_iterations
    )
    rows = jax.nn.softmax((potential[:, None, :] - cost) / temperature[:, None, None], axis=-1)
    return jnp.where(mask[..., None] & target_mask[:, None, :], rows, 0.0)


def _target_potentials(
    cost: CrossMatrix, a: CellWeights, b: TargetWeights, temperature: PerSet, max_iterations: int
) -> TargetWeights:
    """The dual potential g of each target; -inf where its weight is 0."""
    # Imported here: ott takes seconds to import, and only this choice of velocity needs it.
    from ott.geometry.geometry import Geometry
    from ott.solvers import linear

    # Over a batch of sets the error is computed at every iteration anyhow.
    iterations = {"inner_iterations": 1, "max_iterations": max_iterations}

    def solve(cost, a, b, temperature):
        # ott adds axes in silence, while it is traced.
        with jax.numpy_rank_promotion("allow"):
            return linear.solve(Geometry(cost, epsilon=temperature), a, b, **iterations).g

    return jax.vmap(solve)(cost, a, b, temperature)


def _kept(x: CellFeatures, keep: CellMask) -> CellFeatures:
    """The rows to keep, in at least float32; zeros elsewhere."""
    return jnp.where(keep[..., None], x.astype(loss_dtype(x)), 0.0)


def _norm(x: CellFeatures, eps: float) -> Float[Array, "sets cells"]:
    return jnp.sqrt(jnp.square(x).sum(axis=-1) + eps**2)
