"""From positions to arrays: cells on the device once, a batch as a gather inside the jitted step.

Where the cell table does not fit on the device, `gather_on_host` builds the same batch from the
host's copy (`data.location: host`), or from rows on disk (`disk`).
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from wound_jax.arrays import HostOrDevice
from wound_jax.data.cells import PreparedData
from wound_jax.data.sets import SetPlan
from wound_jax.data.store.rows import DiskRows
from wound_jax.models.set_transformer import SetInputs


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CellStore:
    """The cell table as arrays to gather from.

    Attributes:
        features: the model's input and output space; rows on disk stay on the host.
        genes: expression beside an embedding, where a gene decoder is trained.
        replicate: code of each cell's replicate, -1 where unseen in training.
        day: day of each cell, NaN where its timepoint names none.
        scalars: scalar features of each cell, where the model has any.
        velocity: velocity in the basis of the features, where it is trained on.
        confidence: confidence of each velocity, 0 where it is unknown.
        velocity_dims: features that have a velocity.
        velocity_of: whose velocities a batch takes, "control" or "target".
    """

    features: Float[HostOrDevice, "table dims"] | DiskRows
    genes: Float[HostOrDevice, "table genes"] | DiskRows | None
    replicate: Int[HostOrDevice, "table"]
    day: Float[HostOrDevice, "table"]
    scalars: Float[HostOrDevice, "table scalars"] | None = None
    velocity: Float[HostOrDevice, "table dims"] | None = None
    confidence: Float[HostOrDevice, "table"] | None = None
    velocity_dims: Bool[HostOrDevice, "dims"] | None = None
    velocity_of: str = field(default="target", metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class IndexBatch:
    """A batch as positions in the cell store; see `wound_jax.data.sets.SetPlan`."""

    control: Int[HostOrDevice, "sets cells"]
    control_mask: Bool[HostOrDevice, "sets cells"]
    target: Int[HostOrDevice, "sets targets"]
    target_mask: Bool[HostOrDevice, "sets targets"]
    perturbation: Int[HostOrDevice, "sets"]
    timepoint: Int[HostOrDevice, "sets"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SetVelocity:
    """Velocities of the control cells or of the target cells of each set.

    Attributes:
        velocity: in the basis of the features; 0 where unknown.
        confidence: in [0, 1]; 0 where unknown.
        dims: features that have a velocity.
    """

    velocity: Float[HostOrDevice, "sets members dims"]
    confidence: Float[HostOrDevice, "sets members"]
    dims: Bool[HostOrDevice, "sets dims"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SetBatch:
    """A batch as the model and the loss see it."""

    inputs: SetInputs
    target: Float[HostOrDevice, "sets targets dims"]
    target_genes: Float[HostOrDevice, "sets targets genes"] | None
    target_mask: Bool[HostOrDevice, "sets targets"]
    velocity: SetVelocity | None = None


def make_store(data: PreparedData, *, decoder: bool, velocity_of: str = "target") -> CellStore:
    """The store of all cells of a data set, still on the host.

    Args:
        data: the cells.
        decoder: whether expression is trained on beside the features.
        velocity_of: whose velocities a batch takes, "control" or "target".
    """
    cells, velocity = data.cells, data.velocity
    return CellStore(
        features=cells.features,
        genes=cells.genes if decoder else None,
        replicate=data.spec.replicates.encode(cells.annotations.replicate),
        day=cells.days,
        scalars=cells.scalars,
        velocity=None if velocity is None else velocity.velocity,
        confidence=None if velocity is None else velocity.confidence,
        velocity_dims=None if velocity is None else velocity.dims,
        velocity_of=velocity_of,
    )


def index_batch(plan: SetPlan) -> IndexBatch:
    """One batch of a plan."""
    return IndexBatch(
        control=plan.control,
        control_mask=plan.control_mask,
        target=plan.target,
        target_mask=plan.target_mask,
        perturbation=plan.perturbation,
        timepoint=plan.timepoint,
    )


def gather(store: CellStore, batch: IndexBatch) -> SetBatch:
    """The batch at those positions; pure, for use inside jit."""
    return _gather(store, batch, jnp)


def gather_on_host(store: CellStore, batch: IndexBatch) -> SetBatch:
    """The same batch from a store of NumPy arrays, or of rows on disk."""
    return _gather(store, batch, np)


def _gather(store: CellStore, batch: IndexBatch, xp: Any) -> SetBatch:
    """A batch by NumPy, or by jax.numpy."""
    inputs = SetInputs(
        control=_rows(store.features, batch.control, xp),
        mask=batch.control_mask,
        perturbation=batch.perturbation,
        timepoint=batch.timepoint,
        replicate=xp.take(store.replicate, batch.control, axis=0),
        # The day to predict is that of the measured cells; control cells may be of another.
        day=xp.take(store.day, batch.target[:, 0], axis=0),
        scalars=None if store.scalars is None else xp.take(store.scalars, batch.control, axis=0),
    )
    genes = None if store.genes is None else _rows(store.genes, batch.target, xp)
    return SetBatch(
        inputs=inputs,
        target=_rows(store.features, batch.target, xp),
        target_genes=genes,
        target_mask=batch.target_mask,
        velocity=None if store.velocity is None else _gather_velocity(store, batch, xp),
    )


def _rows(values: Any, positions: Any, xp: Any) -> Any:
    """Rows of a table; the positions of a plan lie within it."""
    if isinstance(values, DiskRows):
        return values[positions]
    # NumPy looks while it reads; jax.numpy would go over all it has read once more.
    return xp.take(values, positions, axis=0, mode="raise" if xp is np else "clip")


def _gather_velocity(store: CellStore, batch: IndexBatch, xp: Any) -> SetVelocity:
    members = batch.control if store.velocity_of == "control" else batch.target
    dims: Any = store.velocity_dims
    return SetVelocity(
        velocity=xp.take(store.velocity, members, axis=0),
        confidence=xp.take(store.confidence, members, axis=0),
        # Repeated for each set, so that every array of a batch lies along the sets.
        dims=xp.broadcast_to(dims, (len(members), len(dims))),
    )
